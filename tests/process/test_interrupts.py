"""Ctrl-C at any moment: the process is left as it was found, and is told of it once a step ends."""

import os
import signal
import threading

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fastgradnorm import acquire
from fastgradnorm._process import in_steps, interrupts_wait
from tests.support.process_state import process_state

MODEL = nn.Sequential(nn.Linear(4, 3)).eval()
X = torch.ones(6, 4)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def heard_as_usual():
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_the_first_waits_for_the_end():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        interrupt()
        done.append(1)
    assert done == [1]


def test_the_second_does_not_wait():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        interrupt()
        interrupt()
        done.append(1)
    assert not done


def test_within_another_it_waits_for_the_outer_one():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        with interrupts_wait():
            interrupt()
        done.append(1)
    assert done == [1]


def test_an_error_is_not_lost_and_the_interrupt_is_raised():
    with pytest.raises(KeyboardInterrupt) as raised, interrupts_wait():
        interrupt()
        raise ValueError("of the step")
    assert isinstance(raised.value.__context__, ValueError)


def test_elsewhere_than_in_the_main_thread_signals_are_let_be():
    def work():
        with interrupts_wait():
            told.append(signal.getsignal(signal.SIGINT))

    told = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == [signal.default_int_handler]


def test_who_ignores_interrupts_ignores_them():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_wait():
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_steps_are_all_there():
    assert list(in_steps(iter(range(3)))) == [0, 1, 2]


class InterruptsOnce(nn.Module):
    """A model that is interrupted where a context is being left."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        with _Mode():
            return self.head(x)


class _Mode(TorchFunctionMode):
    came = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))

    def __exit__(self, *given):
        _Mode.came += 1
        if _Mode.came == 2:
            interrupt()  # here a `KeyboardInterrupt` would leave the mode behind
        return super().__exit__(*given)


@pytest.mark.parametrize("options", [{}, {"params": "all"}, {"verify": False}])
def test_a_run_that_is_interrupted_leaves_no_mode_behind(options):
    model, before, _Mode.came = InterruptsOnce().eval(), process_state(), 0
    with pytest.raises(KeyboardInterrupt):
        acquire(model, [X, X], 2, progress=False, **options)
    assert _Mode.came >= 2
    assert process_state() == before
    assert len(acquire(model, [X, X], 2, progress=False, **options)) == 2
