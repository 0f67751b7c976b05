"""What a newcomer passes by mistake, in Python: the message says what to do."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from fastgradnorm import acquire, score_pool

MODEL = nn.Sequential(nn.Linear(4, 3)).eval()
X = torch.ones(6, 4)


def scores(batch, **options):
    return score_pool(MODEL, [batch], progress=False, **options)


@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(), "cross_entropy"])
@pytest.mark.parametrize("label", [-1, 3, 7])
def test_labels_without_a_class(loss, label):
    with pytest.raises(ValueError, match=rf"Got {label}\b"):
        scores((X, torch.full((6,), label)), loss=loss)


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
def test_labels_with_a_fraction(loss):
    with pytest.raises(ValueError, match=r"whole numbers of classes.*labels\.long\(\)"):
        scores((X, torch.rand(6)), loss=loss)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_whole_numbers_for_a_layer_that_wants_others(dtype):
    with pytest.raises(ValueError, match=r"whole numbers\. Convert them.*x\.float\(\)"):
        scores(X.to(dtype))


def test_an_index_out_of_range_is_not_told_to_be_converted():
    model = nn.Sequential(nn.Embedding(3, 4), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="out of range") as raised:
        score_pool(model, [torch.full((2, 2), 5)], progress=False)
    assert "Convert" not in str(raised.value)


@pytest.mark.parametrize("given, meant", [("startegy", "strategy"), ("labeled", "labelled"),
                                          ("parms", "params")])  # fmt: skip
def test_arguments_of_acquire_that_were_meant(given, meant):
    with pytest.raises(TypeError, match=f"Did you mean `{meant}`"):
        acquire(MODEL, [X], 2, **{given: "margin"})


def test_a_pool_of_which_all_is_labelled():
    with pytest.raises(ValueError, match=r"at most 0.*Of 6 samples 6 have a label already"):
        acquire(MODEL, [X], 2, labelled=range(6), progress=False)


def test_an_empty_dataset_is_told_by_its_type():
    class Photos(Dataset):
        def __len__(self):
            return 0

    with pytest.raises(ValueError, match=r"Got an empty Photos\.$"):
        acquire(MODEL, Photos(), 2)


class Ragged(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.ones(4 + index // 3)


class Nothing(Ragged):
    def __getitem__(self, index):
        return None


class Broken(Ragged):
    def __getitem__(self, index):
        raise RuntimeError("the disk is gone")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("dataset, told", [(Ragged(), "equal size"), (Nothing(), "NoneType")])
def test_samples_that_make_no_batch(dataset, told, batch_size, workers):
    loader = DataLoader(dataset, batch_size, num_workers=workers)
    with pytest.raises(ValueError, match=rf"^`loader` must make batches.*{told}.*collate_fn"):
        score_pool(MODEL, loader, progress=False)
    with pytest.raises(ValueError, match=r"^`pool` must make batches"):
        acquire(MODEL, loader, 1, progress=False)


def by_pytorch_in_the_end(samples):
    return default_collate(samples)


def of_its_own(samples):
    return torch.stack(samples)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_collations_of_the_callers(workers):
    """PyTorch's own is told, whoever calls it; one of the caller's fails in its own words."""
    loader = DataLoader(Ragged(), 4, num_workers=workers, collate_fn=by_pytorch_in_the_end)
    with pytest.raises(ValueError, match="together: stack expects each tensor to be equal size"):
        score_pool(MODEL, loader, progress=False)
    loader = DataLoader(Ragged(), 4, num_workers=workers, collate_fn=of_its_own)
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size") as raised:
        score_pool(MODEL, loader, progress=False)
    assert type(raised.value) is RuntimeError


@pytest.mark.parametrize("words", ["torch/utils/data/_utils/collate.py", "default_collate"])
def test_no_text_of_an_error_tells_whose_it_is(words):
    class Saying(Ragged):
        def __getitem__(self, index):
            raise RuntimeError(words)

    with pytest.raises(RuntimeError, match=words) as raised:
        score_pool(MODEL, DataLoader(Saying(), 2), progress=False)
    assert type(raised.value) is RuntimeError


@pytest.mark.parametrize("workers", [0, 1])
def test_other_failures_of_a_dataset_are_its_own(workers):
    loader = DataLoader(Broken(), 2, num_workers=workers)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        score_pool(MODEL, loader, progress=False)


@pytest.mark.parametrize("labelled", [[torch.ones(5, 6)], TensorDataset(torch.ones(5, 6))])
def test_labelled_samples_of_another_width_are_told_as_these(labelled):
    with pytest.raises(ValueError, match=r"one sample of `labelled`\. It failed.*\[1, 6\]"):
        acquire(MODEL, [X], 1, labelled=labelled, progress=False)
    with pytest.raises(ValueError, match=r"one sample of `pool`\. It failed.*\[1, 6\]"):
        acquire(MODEL, labelled, 1, progress=False)


def images(count):
    return [torch.ones(1, 8, 8) for _ in range(count)]


CONVOLUTION = nn.Sequential(
    nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
)


@pytest.mark.parametrize(
    "model, samples",
    [
        (MODEL, list(X)),
        (MODEL, [(x, 1) for x in X]),
        (MODEL, list(X.numpy())),
        (MODEL, [x.to(torch.float32) for x in X.double()]),
        (CONVOLUTION, images(4)),
        (CONVOLUTION, [{"input": image} for image in images(4)]),
    ],
)
def test_samples_where_batches_belong(model, samples):
    with pytest.raises(ValueError, match=r"one sample of `pool`.*as one sample.*DataLoader\("):
        acquire(model, samples, 1, progress=False)
    with pytest.raises(ValueError, match=r"one sample of the loader.*as one sample.*DataLoader\("):
        score_pool(model, iter(samples), progress=False)


@pytest.mark.parametrize("wrong", [torch.ones(6, 5), torch.ones(6, 4, 4, 4, 4).mT[..., :3]])
def test_batches_that_do_not_fit_are_not_told_to_be_samples(wrong):
    with pytest.raises(ValueError, match="one sample of the loader") as raised:
        score_pool(MODEL, [wrong], progress=False)
    assert "as one sample" not in str(raised.value)


def test_complex_numbers_are_no_whole_numbers():
    with pytest.raises(ValueError, match="one sample of the loader") as raised:
        scores(X.to(torch.complex64))
    assert "whole numbers" not in str(raised.value)


def tables():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.numpy())
    return [frame, frame[0], pytest.importorskip("pyarrow").Table.from_pandas(frame)]


@pytest.mark.parametrize("which", range(3))
def test_a_table_as_a_pool(which):
    table = tables()[which]
    for call in (lambda: acquire(MODEL, table, 1), lambda: score_pool(MODEL, table)):
        with pytest.raises(TypeError, match=r"iterable of batches\. Got .*to_numpy\(\)"):
            call()


@pytest.mark.parametrize("place", ["photos/", Path("photos"), b"photos"])
def test_a_path_as_a_pool_or_as_what_is_labelled(place):
    with pytest.raises(TypeError, match=r"`pool` must.*Files are read by a dataset"):
        acquire(MODEL, place, 1)
    with pytest.raises(TypeError, match=r"`labelled` must be indices.*Read the file"):
        acquire(MODEL, [X], 1, labelled=place)


def test_a_dictionary_of_splits_as_a_pool():
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_dict({"input": X.tolist()})
    with pytest.raises(TypeError, match=r"one of its splits \('train', 'test'\)"):
        acquire(MODEL, datasets.DatasetDict({"train": split, "test": split}), 1)


def test_texts_without_tokens():
    datasets = pytest.importorskip("datasets")
    texts = datasets.Dataset.from_dict({"review": ["good", "bad"], "label": [0, 1]})
    with pytest.raises(TypeError, match=r"tokenizer\(row\['review'\]\)"):
        acquire(MODEL, texts, 1)
    for batches in ([["good", "bad"]], DataLoader(["good", "bad"], 2), [{"x": ["good"]}]):
        with pytest.raises(TypeError, match=r"[Tt]oken.*in the loader"):
            acquire(MODEL, batches, 1)


@pytest.mark.parametrize("wrong", [99, 1.01, 0, float("nan"), float("inf")])
def test_a_similarity_is_a_cosine(wrong):
    with pytest.raises(ValueError, match="`max_similarity` must be a finite number > 0 and <= 1"):
        acquire(MODEL, [X], 1, max_similarity=wrong)


@pytest.mark.slow
def test_what_was_chosen_by_its_place():
    chosen = acquire(MODEL, [torch.randn(9, 4)], 3, progress=False)
    assert [chosen[0], chosen[1], chosen[-1]] == chosen.indices.tolist()
    with pytest.raises(IndexError):
        chosen[3]


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"]
)
def test_pictures_of_any_mode_stay_as_they_are(tmp_path, mode):
    """The page shrank the caller's own images, and refused some in the words of Pillow."""
    Image = pytest.importorskip("PIL.Image")
    made = Image.new(mode, (400, 300))
    made.putpixel((0, 0), 60000 if mode in ("I;16", "I", "F") else made.getpixel((1, 1)))
    before = made.tobytes()
    chosen = acquire(MODEL, [torch.randn(9, 4)], 3, progress=False)
    page = chosen.report(tmp_path, picture=lambda index: made).read_text()
    assert page.count("data:image/png") == 3
    assert (made.size, made.tobytes()) == ((400, 300), before)


def test_pictures_by_path_and_others(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    Image.new("RGB", (400, 300)).save(tmp_path / "a.png")
    chosen = acquire(MODEL, [torch.randn(9, 4)], 3, progress=False)
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        page = chosen.report(tmp_path, picture=lambda index, path=path: path).read_text()
        assert page.count("data:image/png") == 3
    for wrong in (torch.ones(3, 8, 8), None, b"PNG"):
        with pytest.raises(TypeError, match=r"`picture` must give images of PIL.*fromarray"):
            chosen.report(tmp_path, picture=lambda index, wrong=wrong: wrong)


class Embeds(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, ids):
        return self.head(self.rows(ids).mean(1))


def test_whole_numbers_that_a_model_wants_are_not_to_be_converted():
    """Out of range, or too few dimensions: it fails on floats as well."""
    for ids in (torch.tensor([[1, 9], [2, 3]]), torch.tensor([1, 2])):
        with pytest.raises(ValueError, match="must run on one sample") as found:
            score_pool(Embeds(), [ids])
        assert "whole numbers" not in str(found.value)


def test_the_help_of_acquire_names_what_is_asked_for_most():
    text = inspect.getdoc(acquire)
    for name in ("params=", "scheme", "forward", "device", "progress=", "verify=", "checkpoint"):
        assert f"    - `{name}" in text, name
    assert text.index("the chosen cover the pool") < text.index("Args:") < text.index(".. math")


def test_a_dataset_where_batches_are_wanted_is_told_which_it_is():
    told = r"`loader` must be .*Got TensorDataset\. A dataset .*only `acquire`.*DataLoader\(dataset"
    with pytest.raises(TypeError, match=told):
        score_pool(nn.Linear(4, 3), TensorDataset(torch.ones(3, 4)))
