"""A task may be trained by the trainer its user has: Lightning's, skorch's."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from fastgradnorm.active import ActiveLearner
from tests.support.small_task import OPTIONS, SmallTask, curve


class WithSkorch(SmallTask):
    def train(self, model, labelled, seed):
        skorch = pytest.importorskip("skorch")
        self.data.bought = set(labelled.indices)
        x, y = (torch.stack(part) for part in zip(*labelled, strict=True))
        net = skorch.NeuralNetClassifier(
            model, criterion=nn.CrossEntropyLoss, lr=0.1, max_epochs=8, batch_size=8,
            train_split=None, verbose=0,
        )  # fmt: skip
        net.fit(x, y)


class WithLightning(SmallTask):
    def train(self, model, labelled, seed):
        lightning = pytest.importorskip("lightning.pytorch")
        self.data.bought = set(labelled.indices)

        class Training(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.model = model

            def training_step(self, batch, index):
                x, y = batch
                return nn.functional.cross_entropy(self.model(x), y)

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)

        trainer = lightning.Trainer(
            max_epochs=8, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Training(), DataLoader(labelled, 8, shuffle=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the trainers' own: few workers, `isinstance` of tree specs
@pytest.mark.parametrize("task", [WithSkorch, WithLightning])
def test_a_trainer_of_the_users(task):
    options = {**OPTIONS, "start": 12, "budget": 8, "cycles": 2}
    run = ActiveLearner(task(), "expected/last_layer/top", **options).run()
    assert run.labelled.tolist() == [12, 20, 28]
    assert run.curve()[-1] > 0.6  # of three classes: the model that was handed over was trained
    assert curve(ActiveLearner(task(), "expected/last_layer/top", **options).run()) == curve(run)
