"""How much memory a device has left, how much of it may be used, how running out shows itself."""

import os
import sys
from pathlib import Path

import torch

# Planned from where `max_memory` is not given: others allocate too.
_SHARE_OF_FREE = 0.8
_UNLIMITED = sys.maxsize
_ROOM = 1 << 16  # bytes of a file of the kernel's
_NO_LIMIT = 1 << 62  # what control groups of version 1 have for none is a little less than 2 ** 63
_MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "out of memory",
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN
    "std::bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def allowed_bytes(max_memory: int | float | None, device: torch.device) -> int:
    """What scoring may use beside model and inputs: `max_memory` bytes, or that share of the free.

    Without `max_memory` four fifths of what is free; no bound where that cannot be told.
    """
    if isinstance(max_memory, int):
        return max_memory
    free = free_bytes(device)
    if free is None:
        return _UNLIMITED
    return max(1, int(free * (_SHARE_OF_FREE if max_memory is None else max_memory)))


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None if it does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What PyTorch keeps for later is free to itself.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    return free_host_bytes() if device.type == "cpu" else None


def free_host_bytes(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Of the machine and of every control group this process is in, the least that is left."""
    found = [_available(proc), *_left_in_groups(proc, cgroups)]
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def _read(*path: str | Path) -> str:
    """A file of the kernel's, in a third of the time that opening it as text takes.

    The kernel writes each of them at once, as far as there is room.
    """
    file = os.open(os.path.join(*path), os.O_RDONLY)
    try:
        found = os.read(file, _ROOM)
        while len(found) % _ROOM == 0 and (more := os.read(file, _ROOM)):
            found += more
        return found.decode(errors="replace")
    finally:
        os.close(file)


def _number_after(name: str, text: str) -> int | None:
    """The number that follows a name at the beginning of a line; None if there is no such line."""
    at = 0 if text.startswith(name) else text.find(f"\n{name}") + 1
    if not (at or text.startswith(name)):
        return None
    return int(text[at + len(name) :].split(maxsplit=1)[0])


def _available(proc: Path) -> int | None:
    try:
        kilobytes = _number_after("MemAvailable:", _read(proc, "meminfo"))
        if kilobytes is not None:
            return kilobytes * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _left_in_groups(proc: Path, cgroups: Path) -> list[int | None]:
    """Version 2 has one tree, version 1 one for memory; a limit may be set at any level."""
    try:
        lines = _read(proc, "self", "cgroup").splitlines()
    except OSError:
        return []
    left: list[int | None] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            root, names = cgroups, ("memory.max", "memory.current", "inactive_file ")
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        else:
            continue
        group = str(root)
        left.append(_left_in(group, *names))
        for step in path.split("/"):
            if step and step != "..":
                group = os.path.join(group, step)
                left.append(_left_in(group, *names))
    return left


def _left_in(group: str, limit: str, usage: str, reclaimable: str) -> int | None:
    try:
        allowed = _read(group, limit).strip()
        if allowed == "max" or int(allowed) >= _NO_LIMIT:  # the latter in version 1
            return None
        left = int(allowed) - int(_read(group, usage))
        # File pages that the kernel drops when asked.
        return left + (_number_after(reclaimable, _read(group, "memory.stat")) or 0)
    except (OSError, ValueError, IndexError):
        return None


def in_words(count: int) -> str:
    """Bytes as a reader takes them in.

    Example:
        >>> in_words(1_500), in_words(3 << 20), in_words(5 << 30)
        ('1500 bytes', '3.0 MiB', '5.0 GiB')
    """
    if count < 1 << 20:
        return f"{count} bytes"
    return f"{count / 2**20:.1f} MiB" if count < 1 << 30 else f"{count / 2**30:.1f} GiB"
