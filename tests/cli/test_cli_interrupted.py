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


def test_afterwards_it_is_heard_as_before():
    code = "import sys, signal; sys.argv[1:] = ['--version']\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += (
        "from fastgradnorm_command import main\ntry: main()\nexcept SystemExit as end: print(end)\n"
    )
    code += "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    done = warm.run(code)
    assert (done.returncode, done.stderr) == (0, "")
