"""Ctrl-C in the first second, while PyTorch is imported: one line, and the exit code of that."""

import signal
import subprocess
import sys
import time

import pytest

from tests.support import warm

pytestmark = pytest.mark.slow

# Hears it as a shell's foreground does; says when its imports begin, and holds one of them up.
START = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
class Held:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("importing", flush=True)
            try:
                time.sleep(60)
            except BaseException:  # as imports do
                pass
sys.meta_path.insert(0, Held())
from fastgradnorm_command import main
main()
"""


@pytest.mark.parametrize("arguments", [["--version"], ["acquire", "my_model:make", "photos", "3"]])
def test_while_imports_run(arguments):
    command = [sys.executable, "-c", START, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout.readline() == "importing\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "fastgradnorm: interrupted.\n")


# A command that stands for all of them, and a library that is busy when the process ends.
END = """
import atexit, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import fastgradnorm.cli
def run():
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    raise SystemExit({code})
fastgradnorm.cli.main = run
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT) or print("at exit"))
from fastgradnorm_command import main
main()
"""


@pytest.mark.parametrize(
    "code, told", [(0, "True\nat exit\n"), (1, "True\nat exit\n"), (130, "True\n")]
)
def test_at_the_end_nothing_is_interrupted_any_more(code, told):
    """Until then it is heard as Python hears it; and who interrupted waits for no library."""
    done = warm.run(END.format(code=code))
    assert (done.returncode, done.stdout, done.stderr) == (code, told, "")


# Ctrl-C again, once the first was told: while the command ends, and while what it wrote is flushed.
AGAIN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import fastgradnorm.cli, fastgradnorm_command
again = lambda *_: os.kill(os.getpid(), signal.SIGINT)
def run():
    try:
        again()
    finally:
        sys.stdout.write("told")
        {while_told}
        raise SystemExit(130)
fastgradnorm.cli.main = run
{while_ended}
fastgradnorm_command.main()
"""


@pytest.mark.parametrize(
    "moments",
    [
        {"while_told": "again()"},
        {"while_ended": "fastgradnorm_command._ended = again"},
    ],
    ids=lambda moments: " ".join(moments.values()),
)
def test_again_while_it_ends(moments):
    done = warm.run(AGAIN.format(**{"while_told": "", "while_ended": "", **moments}))
    assert (done.returncode, done.stdout, done.stderr) == (130, "told", "")


# While the pool is opened, before there is anything to go on with.
OPENING = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
def make():
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize(
    "command", [["acquire", "their:make", ".", "3"], ["score", "their:make", "."]]
)
def test_while_the_model_is_made(command, tmp_path):
    (tmp_path / "their.py").write_text(OPENING)
    code = "from fastgradnorm_command import main; main()"
    done = warm.run(code, *command, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "fastgradnorm: interrupted.\n")
