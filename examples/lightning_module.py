"""A Lightning module and its data module: the module is a model like any other."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from fastgradnorm import acquire
from fastgradnorm.integrations.lightning import GradNormWriter

torch.manual_seed(0)


class Classifier(LightningModule):
    """As it is: `forward` gives logits."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def predict_step(self, batch, _):
        return self(batch[0]).argmax(1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class Data(LightningDataModule):
    """All samples, and which of them have labels."""

    def __init__(self):
        super().__init__()
        x = torch.randn(300, 10)
        self.everything = TensorDataset(x, x[:, :4].argmax(1))
        self.labelled = list(range(40))

    def train_dataloader(self):
        return DataLoader(Subset(self.everything, self.labelled), batch_size=20, shuffle=True)

    def predict_dataloader(self):
        return DataLoader(self.everything, batch_size=64)


if __name__ == "__main__":
    module, data = Classifier(), Data()
    quiet = {
        "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "accelerator": "cpu", "devices": 1,
    }  # fmt: skip
    for _ in range(2):  # rounds
        Trainer(max_epochs=5, **quiet).fit(module, data)
        chosen = acquire(module, data.predict_dataloader(), 20, labelled=data.labelled)
        data.labelled += chosen.indices.tolist()  # once people labelled them
    print(chosen)

    # Scores beside predictions, in one pass of `Trainer.predict`:
    writer = GradNormWriter("scores.npz", params="last_layer")
    predicted = Trainer(callbacks=[writer], **quiet).predict(module, data)
    print(len(predicted), "batches predicted;", writer.scores)
