"""Inputs that a batch holds beside the first are not taken for labels in silence."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fastgradnorm import GradNormScorer, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0]))


def scored(model, loader, **options):
    return score_pool(model, loader, progress=False, **options)


def seeded(make):
    torch.manual_seed(0)
    return make()


class Encoder(nn.Module):
    """A classifier of tokens whose mask leaves positions out."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(20, 6), nn.Linear(6, 3)

    def pooled(self, ids, mask=None, types=None):
        h = self.words(ids)
        h = h if types is None else h + types[..., None]
        weight = torch.ones_like(ids) if mask is None else mask
        h = (h * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
        return self.head(h)


class Optional(Encoder):
    def forward(self, ids, mask=None, types=None, labels=None):
        return self.pooled(ids, mask, types)


class KeywordOnly(Encoder):
    def forward(self, ids, *, attention_mask=None):
        return self.pooled(ids, attention_mask)


class LabelsFirst(Encoder):
    def forward(self, ids, labels=None, attention_mask=None):
        return self.pooled(ids, attention_mask)


class Variadic(Encoder):
    def forward(self, ids, *others):
        return self.pooled(ids, *others[:1])


class Flags(Encoder):
    """No place for another tensor."""

    def forward(self, ids, return_features=False, scale=1.0, labels=None, **options):
        return self.pooled(ids)


class Needs(Encoder):
    def forward(self, ids, mask):
        return self.pooled(ids, mask)


IDS = torch.randint(1, 20, (6, 7), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(7) < torch.tensor([7, 3, 5, 2, 6, 4])[:, None]).long()
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
TAGS = torch.randint(0, 5, (6, 7), generator=torch.Generator().manual_seed(1))

DROPPED = {
    "mask": (Optional, (IDS, MASK, LABELS), "mask=batch[1]"),
    "mask alone": (Optional, (IDS, MASK), "mask=batch[1]"),
    "mask of truth values": (Optional, (IDS, MASK.bool(), LABELS), "mask=batch[1]"),
    "mask of floats": (Optional, (IDS, MASK.float(), LABELS), "mask=batch[1]"),
    "mask after labels": (LabelsFirst, (IDS, LABELS, MASK), "attention_mask=batch[2]"),
    "mask by keyword": (KeywordOnly, (IDS, MASK, LABELS), "attention_mask=batch[1]"),
    "variadic": (Variadic, (IDS, MASK, LABELS), "batch[1]"),
    "mask and types": (Optional, (IDS, MASK, MASK, LABELS), "mask=batch[1]"),
    "numbers of positions": (Optional, (IDS, TAGS, LABELS), "mask=batch[1]"),
}


def messages(model, loader, function=scored):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = function(model, loader)
    return found, [str(each.message) for each in caught]


class TestDroppedInputs:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", DROPPED)
    def test_are_told_with_the_cure(self, name):
        make, tensors, cure = DROPPED[name]
        for loader in (DataLoader(TensorDataset(*tensors), 3), [tensors], [list(tensors)]):
            _, (told,) = messages(seeded(make), loader)
            assert "looks like an input" in told
            assert f"model(batch[0], {cure})" in told
        _, (told,) = messages(seeded(make), [tensors], naive_score_pool)
        assert f"model(batch[0], {cure})" in told

    @pytest.mark.slow
    def test_the_cure_is_one(self):
        model = seeded(Optional)
        loader = DataLoader(TensorDataset(IDS, MASK, LABELS), 3)
        found = scored(model, loader, forward=lambda model, batch: model(batch[0], mask=batch[1]))
        samples = list(zip(IDS.split(1), MASK.split(1), strict=True))
        exact = oracle.scores(model, samples, call=lambda model, sample: model(*sample))
        assert_close_relative(found, exact, 1e-5)
        without, _ = messages(model, loader)
        assert ((without - exact).abs() / exact).max() > 0.05

    @pytest.mark.slow
    def test_of_several_modalities_and_lengths(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(10, 3)

            def forward(self, x, other=None, lengths=None):
                return self.head(x)

        x, y = rows(6, 10), torch.zeros(6).long()
        categories = torch.arange(24).view(6, 4) % 5
        lengths = {"lengths": torch.ones(6)}
        ends = [categories], [rows(6, 10)], [rows(6, 3, 2)]
        for rest in (*ends, [categories, y], [rows(6, 4), y], [rows(6, 10), y], [lengths, y]):
            _, (told,) = messages(Two(), [(x, *rest)])
            assert "looks like an input" in told

        class Lengths(Two):
            def forward(self, x, lengths=None):
                return self.head(x)

        _, (told,) = messages(Lengths(), [(x, torch.arange(6), y)])
        assert "lengths=batch[1]" in told

    @pytest.mark.parametrize("make, tensors", [
        (Optional, (IDS, LABELS)), (Optional, (IDS, LABELS, torch.arange(6))),
        (Optional, (IDS, TAGS)), (Optional, (IDS, LABELS.float())),
        (Optional, (IDS, torch.eye(6)[:, :3])), (Optional, (IDS, torch.rand(6, 4))),
        (Optional, (IDS, torch.zeros(6, 4).bool())), (Flags, (IDS, MASK, LABELS)),
        (Flags, (IDS, LABELS)), (LabelsFirst, (IDS, LABELS)), (Optional, (IDS,)),
        (Optional, (IDS, TAGS.where(MASK.bool(), -100))),
    ])  # fmt: skip
    def test_labels_are_silent(self, make, tensors):
        assert messages(seeded(make), DataLoader(TensorDataset(*tensors), 3))[1] == []

    @pytest.mark.parametrize("labels", [
        torch.zeros(4).long(), torch.zeros(4, 6, 6).long(), torch.zeros(4, 1, 6, 6),
        torch.zeros(4, 5), torch.rand(4, 6, 6), rows(4, 3, 6, 6),
    ])  # fmt: skip
    def test_images_and_labels_are_silent(self, labels):
        model = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
        assert messages(model, DataLoader(TensorDataset(rows(4, 3, 6, 6), labels), 2))[1] == []

    @pytest.mark.slow
    def test_are_told_once_and_for_a_single_batch(self):
        model = seeded(Optional)
        assert len(messages(model, DataLoader(TensorDataset(IDS, MASK, LABELS), 1))[1]) == 1
        with pytest.warns(UserWarning, match="looks like an input"):
            GradNormScorer(model).score_batch((IDS, MASK, LABELS))

    @pytest.mark.parametrize("batch", [(IDS, MASK, LABELS), [IDS, MASK], (IDS, LABELS)])
    def test_that_the_model_needs_are_named_in_its_error(self, batch):
        looked_at = pytest.warns(UserWarning) if MASK is batch[1] else warnings.catch_warnings()
        told = r"'mask' Of the batch, .*only the first is given.*forward="
        with looked_at, pytest.raises(ValueError, match=told):
            scored(seeded(Needs), [batch])


class NeedsLabels(Encoder):
    def forward(self, ids, labels=None):
        return self.pooled(ids) + labels.sum()


class Required(Encoder):
    def forward(self, ids, label):
        return self.pooled(ids)


@pytest.mark.parametrize("make, key", [
    (NeedsLabels, "labels"), (Required, "label"),
])  # fmt: skip
@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: (b, None), lambda b: [b]])
def test_missing_labels_are_named(make, key, wrap):
    with pytest.raises(ValueError) as caught:
        scored(seeded(make), [wrap({"ids": IDS, key: LABELS})])
    told = str(caught.value)
    assert "labels are never read" in told
    assert re.search(rf"'{key}' is not given to the model|only the first is given", told)
