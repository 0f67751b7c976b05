import copy

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from fastgradnorm import PoolScores, score_pool, select
from tests.support.asserts import assert_close_relative
from tests.support.cases import MLP

lightning = pytest.importorskip("lightning.pytorch")

from fastgradnorm.integrations.lightning import GradNormWriter  # noqa: E402

# Lightning's own reading of loaders asks torch for a class of old.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Classifier(lightning.LightningModule):
    """Predicts probabilities; optionally scores inside `predict_step` too."""

    def __init__(self, inside=False):
        super().__init__()
        self.net, self.inside, self.found = MLP(), inside, []

    def forward(self, x):
        return self.net(x)

    def predict_step(self, batch, batch_idx):
        if self.inside:
            assert torch.is_inference_mode_enabled() == self.trainer.predict_loop.inference_mode
            self.found.append(score_pool(self, [batch], progress=False))
        return self(batch[0]).softmax(-1)


@pytest.fixture
def data():
    return TensorDataset(torch.randn(21, 10), torch.zeros(21))


def trainer(*callbacks, **options):
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize("inference_mode", [True, False])
def test_writer_and_predict_step_select_what_score_pool_selects(data, inference_mode, tmp_path):
    model, writer = Classifier(inside=True), GradNormWriter(tmp_path / "scores.npz")
    loader = DataLoader(data, batch_size=8)
    predictions = trainer(writer, inference_mode=inference_mode).predict(model, loader)
    outside = score_pool(model.net, loader, progress=False)
    assert_close_relative(writer.scores.values, outside, 1e-5)
    assert_close_relative(torch.cat(model.found), outside, 1e-5)
    assert writer.scores.select(5).tolist() == select(outside, 5).tolist()
    assert torch.equal(PoolScores.load(tmp_path / "scores.npz").values, writer.scores.values)
    assert torch.cat(predictions).shape == (21, 5)
    copy.deepcopy(writer)


@pytest.mark.slow
def test_scores_are_in_the_order_of_the_dataset(data):
    writer = GradNormWriter(params="last_layer")
    loader = DataLoader(data, sampler=[3, 20, 1, 2, 0, *range(4, 20), 3], batch_size=8)
    model = Classifier()
    trainer(writer).predict(model, loader, return_predictions=False)
    expected = score_pool(model.net, [data.tensors[0]], params="last_layer", progress=False)
    assert_close_relative(writer.scores.values, expected, 1e-5)


@pytest.mark.slow
def test_a_second_prediction_starts_anew_with_the_model_of_that_time(data):
    writer, model = GradNormWriter(), Classifier()
    run = trainer(writer)
    run.predict(model, DataLoader(data, batch_size=8))
    with torch.no_grad():
        model.net.head.weight.mul_(3)
    part = DataLoader(Subset(data, range(9)), batch_size=8)
    run.predict(model, part)
    assert_close_relative(writer.scores.values, score_pool(model.net, part, progress=False), 1e-5)


@pytest.mark.slow
def test_a_stream_without_indices_is_kept_in_its_order(data):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(data.tensors[0])

    writer, model = GradNormWriter(), Classifier()
    model.predict_step = lambda batch, batch_idx: model(batch)
    with pytest.warns(UserWarning, match="Couldn't infer the batch indices"):
        trainer(writer).predict(model, DataLoader(Stream(), batch_size=4))
    expected = score_pool(model.net, [data.tensors[0]], progress=False)
    assert_close_relative(writer.scores.values, expected, 1e-5)


def test_shares_of_several_processes_are_merged_and_repeats_dropped(monkeypatch):
    """Two processes, 5 samples: the sampler gives 0, 2, 4 to one and 1, 3, and again 0 to other."""
    writer = GradNormWriter()
    writer._found, writer._stream = {0: 0.5, 2: 2.5, 4: 4.5}, iter(())
    writer._dtype = torch.float32

    def gather(shares, mine):
        shares[:] = [mine, {1: 1.5, 3: 3.5, 0: 0.5}]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    process = type("Trainer", (), {"world_size": 2, "is_global_zero": False})()
    writer.write_on_epoch_end(process, None, None, None)
    assert writer.scores.values.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]


@pytest.mark.slow
def test_nan_is_kept_and_several_loaders_are_refused(data):
    data.tensors[0][4] = np.nan
    writer, loader = GradNormWriter(), DataLoader(data, batch_size=8)
    trainer(writer).predict(Classifier(), loader)
    assert writer.scores.values.isnan().nonzero().tolist() == [[4]]
    with pytest.raises(ValueError, match=r"`dataloaders` must be one"):
        trainer(GradNormWriter()).predict(SeveralLoaders(), [loader, loader])
    with pytest.raises(TypeError, match=r"`scheme` must be one name"):
        GradNormWriter(scheme=["entropy"])


class SeveralLoaders(Classifier):
    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return self(batch[0])


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    {"sampler": [3, 9, 20, 4]}, {"sampler": range(20, 4, -1)}, {"sampler": [20]},
    {"sampler": [5, 2, 11], "batch_size": 2}, {"sampler": SubsetRandomSampler([1, 2, 7, 12])},
])  # fmt: skip
def test_indices_of_a_part_are_those_of_the_dataset(data, options):
    model, writer = Classifier(), GradNormWriter()
    trainer(writer).predict(model, DataLoader(data, **options))
    scores = writer.scores
    drawn = options["sampler"]
    drawn = drawn.indices if isinstance(drawn, SubsetRandomSampler) else drawn
    assert scores.indices.tolist() == sorted(drawn)
    expected = score_pool(model.net, [data.tensors[0][scores.indices]], progress=False)
    assert_close_relative(scores.values, expected, 1e-5)
    assert set(scores.select(1).tolist()) <= set(drawn)
