"""Processes that have PyTorch and the package imported when they begin: forked from one that waits.

To start Python, PyTorch and the package takes seconds, and most tests of processes are about what
comes after: a kill, an interrupt, a full disk, an exit code. A child is a process as any other. It
ends as `python -c` does; it shares with its siblings what was imported before, and nothing else.
Where the start itself is tested, `subprocess` is used.
"""

import atexit
import functools
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 100  # seconds
_NUMBER = struct.Struct("q")
_MOST = 2**17  # bytes of a request


class Started:
    """A child that runs; what it writes goes to files, so that it never waits for a reader."""

    def __init__(self, code, *arguments, cwd=None, env=None):
        self.args = ["-c", *map(str, arguments)]
        self._out, self._err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._status, status = os.pipe()
        request = {
            "code": code,
            "arguments": self.args,
            "cwd": str(cwd or os.getcwd()),
            "environment": dict(os.environ if env is None else env),
            "path": ["", *(str(Path(place).resolve()) for place in sys.path if place)],
        }
        files = [self._out.fileno(), self._err.fileno(), status]
        socket.send_fds(_server(os.getpid()), [json.dumps(request).encode()], files)
        os.close(status)
        self.pid, self.returncode = self._number(PATIENCE), None

    def _number(self, timeout):
        if not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return _NUMBER.unpack(os.read(self._status, _NUMBER.size))[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.returncode is None:
            self.kill()
            self.wait()
        os.close(self._status)
        self._out.close()
        self._err.close()

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def poll(self):
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout=PATIENCE):
        """The exit code; less than zero for a signal that ended it."""
        if self.returncode is None:
            self.returncode = self._number(timeout)
        return self.returncode

    def wait_for_a_line(self):
        """Until it has written one, or has ended."""
        end = time.monotonic() + PATIENCE
        while "\n" not in self.stdout and self.poll() is None and time.monotonic() < end:
            time.sleep(0.005)

    @property
    def stdout(self):
        return self._written(self._out)

    @property
    def stderr(self):
        return self._written(self._err)

    @staticmethod
    def _written(file):
        return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()


def run(code, *arguments, timeout=PATIENCE, **where):
    """As `subprocess.run([sys.executable, "-c", code, *arguments])`, with text captured."""
    with Started(code, *arguments, **where) as child:
        child.wait(timeout)
        return subprocess.CompletedProcess(child.args, child.returncode, child.stdout, child.stderr)


@functools.cache
def _server(_of):
    """The socket of a process's server, which ends when the socket is closed."""
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    paths = [str(ROOT), *(place for place in sys.path if place)]
    process = subprocess.Popen(
        [sys.executable, __file__, str(other.fileno())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        pass_fds=[other.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is for the tests
    )
    other.close()
    atexit.register(process.wait)
    atexit.register(ours.close)  # first
    return ours


def _warm_up():
    """Imports what children use, with what is loaded at the first pass and by the first step.

    Nothing of the extras, for some children are to be without them.
    """
    import torch

    from fastgradnorm import acquire, active
    from fastgradnorm.cli import main

    torch.set_num_threads(1)
    model = torch.nn.Linear(2, 2)
    torch.optim.SGD(model.parameters()).step()
    acquire(model, [torch.eye(2)], 1, progress=False)
    assert active and main


def _serve(requests):
    """Forks for each request; returns what to run, in the children alone."""
    while True:
        message, files, *_ = socket.recv_fds(requests, _MOST, 3)
        if not message:
            os._exit(0)
        if not os.fork():
            return _watched(json.loads(message), *files)
        for file in files:
            os.close(file)


def _watched(request, out, err, status):
    """Forks once more; in the outer process, tells of the inner one and ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child:
        os.write(status, _NUMBER.pack(child))
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(status, _NUMBER.pack(ended))
        os._exit(0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    for file in (out, err, status):
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.argv, sys.path, tempfile.tempdir = request["arguments"], request["path"], None
    return request["code"]


def _run(code):
    """As `python -c` does; at the end, nothing of what was imported is taken apart."""
    status = 1
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
        if status and not isinstance(left.code, int):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children end without being waited for
    gc.collect()
    gc.freeze()  # a collection would copy what is shared
    with socket.socket(fileno=int(sys.argv[1])) as given:
        text = _serve(given)
    _run(text)
