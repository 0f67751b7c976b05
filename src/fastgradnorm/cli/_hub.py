"""Names of Hugging Face's: whether anybody answers, before the library waits for it."""

import functools
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path

_SECONDS = 4.0  # for an answer; the library tries for half a minute and more


def from_here(name: str) -> bool:
    """Whether `name` is looked for on this machine alone: a folder, or without a network."""
    if Path(name).is_dir():
        return True
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)


def why_not(name: str, error: Exception) -> str:
    """What failed, in a sentence; without a network that, and not what the library makes of it."""
    from huggingface_hub import constants

    if not Path(name).is_dir() and isinstance(error, OSError) and from_here(name):
        offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "does not answer"
        host = "" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} "
        return (
            "There is no such folder here, nothing of that name was downloaded before, and "
            f"{host}{offline}."
        )
    return str(error).strip().partition("\n")[0]


@functools.cache
def reachable(address: str) -> bool:
    """Whether anything answers there, whatever it says; asked once."""
    answered: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=_SECONDS).close()
        except urllib.error.HTTPError:
            pass
        except urllib.error.URLError as error:
            answered.append(isinstance(error.reason, ssl.SSLError))  # the library may trust it
            return
        except (OSError, ValueError):
            answered.append(False)
            return
        answered.append(True)

    # In a thread, for a name server that does not answer keeps to no time.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SECONDS + 1)
    return bool(answered) and answered[0]
