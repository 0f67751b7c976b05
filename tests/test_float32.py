"""float32 is float32 on a GPU unless TF32 is asked for, and switches are put back as they were."""

import threading

import pytest
import torch
from fastgradnorm_kernels._backends import input_precision
from torch import nn

from fastgradnorm import GradNormScorer, gradient_sketch, naive_score_pool, score_pool
from tests.support.cases import MLP

X = torch.ones(3, 10)


def switches():
    """As both of PyTorch's interfaces tell them; an error where they contradict each other."""

    def read(function):
        try:
            return function()
        except RuntimeError:
            return "contradiction"

    backends = torch.backends
    return {
        "matmul precision": read(torch.get_float32_matmul_precision),
        "matmul": backends.cuda.matmul.fp32_precision,
        "matmul allow_tf32": read(lambda: backends.cuda.matmul.allow_tf32),
        "conv": backends.cudnn.conv.fp32_precision,
        "rnn": backends.cudnn.rnn.fp32_precision,
        "cudnn allow_tf32": read(lambda: backends.cudnn.allow_tf32),
        "all": backends.fp32_precision,
    }


@pytest.fixture(autouse=True)
def put_back():
    before = switches()
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    torch.backends.cudnn.allow_tf32 = True
    assert switches() == before


def old_matmul():
    torch.backends.cuda.matmul.allow_tf32 = True


def old_precision(name):
    return lambda: torch.set_float32_matmul_precision(name)


def new_matmul():
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def new_everywhere():
    torch.backends.fp32_precision = "tf32"


def new_matmul_after_old():
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "tf32"


ASKED = {
    "allow_tf32": old_matmul,
    "high": old_precision("high"),
    "medium": old_precision("medium"),
    "fp32_precision": new_matmul,
    "everywhere": new_everywhere,
    "both": new_matmul_after_old,
}


def nothing():
    pass


def new_conv_ieee():
    torch.backends.cudnn.conv.fp32_precision = "ieee"


def old_conv_off():
    torch.backends.cudnn.allow_tf32 = False


def all_but_matmul():
    torch.backends.fp32_precision = "tf32"
    torch.backends.cuda.matmul.fp32_precision = "ieee"


def asked_and_taken_back():
    torch.set_float32_matmul_precision("high")
    torch.set_float32_matmul_precision("highest")


NOT_ASKED = {
    "defaults": nothing,
    "conv ieee": new_conv_ieee,
    "allow_tf32 off": old_conv_off,
    "all but matmul": all_but_matmul,
    "taken back": asked_and_taken_back,
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_tf32_where_it_is_asked_for_by_either_interface(ask):
    ask()
    assert input_precision(torch.float32) == "tf32"
    assert input_precision(torch.bfloat16) == "ieee"


@pytest.mark.parametrize("ask", NOT_ASKED.values(), ids=NOT_ASKED)
def test_ieee_where_it_is_not(ask):
    ask()
    assert input_precision(torch.float32) == "ieee"


class Notes(list):
    """Shared by the copies of a model that scoring makes, as plain lists are not."""


class Peeking(MLP):
    """Notes what holds while it runs; may raise, or read what PyTorch's older switch says."""

    def __init__(self, fails=False, reads=False):
        super().__init__()
        self.seen, self.fails, self.reads = Notes(), fails, reads

    def forward(self, x):
        cudnn = torch.backends.cudnn
        self.seen.append((cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision))
        if self.reads:
            assert cudnn.allow_tf32 is False
        if self.fails:
            raise ArithmeticError
        return super().forward(x)


def score_batch(model):
    return GradNormScorer(model, progress=False).score_batch(X)


def streamed(model):
    return list(GradNormScorer(model, progress=False).stream([X, X]))


RUNS = {
    "score_pool": lambda model: score_pool(model, [X], progress=False),
    "score_batch": score_batch,
    "stream": streamed,
    "explain": lambda model: GradNormScorer(model, progress=False).explain(X),
    "sketch": lambda model: gradient_sketch(model, [X], 4, progress=False),
    "naive": lambda model: naive_score_pool(model, [X]),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("ask", NOT_ASKED.values(), ids=NOT_ASKED)
def test_convolutions_are_ieee_inside_and_as_before_after(ask, run):
    ask()
    before, model = switches(), Peeking()
    run(model)
    assert switches() == before
    assert model.seen
    assert not any("tf32" in seen for seen in model.seen)


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_convolutions_are_tf32_where_matrix_products_are(ask):
    ask()
    before, model = switches(), Peeking()
    score_batch(model)
    assert switches() == before
    assert all(seen == ("tf32", "tf32") for seen in model.seen)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_put_back_after_an_error(run):
    before = switches()
    with pytest.raises((ValueError, ArithmeticError)):
        run(Peeking(fails=True))
    assert switches() == before


def test_a_model_may_read_the_older_switch():
    score_batch(Peeking(reads=True))


def test_between_the_batches_of_a_stream_it_is_the_callers():
    before = switches()
    stream = GradNormScorer(Peeking(), progress=False).stream([X, X])
    for _ in stream:
        assert switches() == before


@pytest.mark.slow
def test_two_scorers_in_two_threads():
    """The first to leave takes nothing away from the other; the last puts back."""
    before = switches()
    inside, done = threading.Event(), threading.Event()

    class Waiting(Peeking):
        def forward(self, x):
            inside.set()
            assert done.wait(20)
            return super().forward(x)

    model = Waiting()
    thread = threading.Thread(target=score_batch, args=(model,))
    thread.start()
    assert inside.wait(20)
    score_batch(nn.Sequential(Peeking()))
    assert torch.backends.cudnn.conv.fp32_precision != "tf32"
    done.set()
    thread.join()
    assert not any("tf32" in seen for seen in model.seen)
    assert switches() == before
