"""Whether random numbers were drawn: seen for every generator, however its state is looked at."""

import random

import numpy as np
import pytest
import torch

from fastgradnorm._process import (
    OwnRandomState,
    put_back_random_states,
    random_states,
    same_random_states,
)


def reseed():
    np.random.seed(5)


DRAWS = {
    "python": random.random,
    "python, a normal number": lambda: random.gauss(0, 1),
    "python, the kept normal number": lambda: random.gauss(0, 1),
    "torch": lambda: torch.rand(1),
    "numpy": np.random.rand,
    "numpy, all its numbers anew": lambda: np.random.randint(0, 2**32, 624, np.uint32),
    "numpy, seeded": reseed,
    "numpy, a normal number": np.random.randn,
    "numpy, the kept normal number": np.random.randn,
}


@pytest.fixture(autouse=True)
def known(request):
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    if "kept normal" in request.node.name:
        np.random.randn(), random.gauss(0, 1)  # each makes two, of which one is kept
    random_states(), random_states()


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_drawn_is_noticed_and_put_back(name):
    before = random_states()
    assert same_random_states(before, random_states())
    DRAWS[name]()
    assert not same_random_states(before, random_states())
    torch.rand(1), np.random.rand(), random.random()
    with put_back_random_states():
        inside = random_states()
        DRAWS[name]()
    assert same_random_states(inside, random_states())


def test_a_drawn_kept_number_is_drawn_again():
    np.random.randn()
    with OwnRandomState():
        first = np.random.randn()
    assert np.random.randn() == first


def test_what_a_state_tells_is_not_changed_by_later_draws():
    before = random_states()[1][1].copy()
    kept = random_states()[1]
    np.random.randint(0, 2**32, 700, np.uint32)
    assert np.array_equal(kept[1], before)


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "Philox"])
def test_another_generator_of_numpy(kind):
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(getattr(np.random, kind)(8))
    try:
        one = random_states()
        assert same_random_states(one, random_states())
        with put_back_random_states():
            first = np.random.rand()
            assert not same_random_states(one, random_states())
        assert same_random_states(one, random_states())
        assert np.random.rand() == first
    finally:
        np.random.set_bit_generator(before)
