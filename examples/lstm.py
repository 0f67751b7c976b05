"""Sequences of different lengths, padded in the loader and packed in the model."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader

from fastgradnorm import acquire

torch.manual_seed(0)


class Classifier(nn.Module):
    """The last state of an LSTM to three classes."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, values, lengths):
        packed = pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return self.head(last[0])


def collate(sequences):
    """A batch as a mapping: its names are the arguments of `forward`."""
    return {
        "values": pad_sequence(sequences, batch_first=True),
        "lengths": torch.tensor([len(sequence) for sequence in sequences]),
    }


# Yours: recordings, logs, event streams.
sequences = [torch.randn(int(length), 4).cumsum(0) for length in torch.randint(5, 40, (200,))]
labels = torch.tensor([int(sequence[-1].argmax()) % 3 for sequence in sequences])

model = Classifier()
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
for _ in range(20):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(**collate(sequences[:40])), labels[:40]).backward()
    optimizer.step()

loader = DataLoader(sequences, batch_size=32, collate_fn=collate)
chosen = acquire(model, loader, 15, labelled=range(40))
print(chosen)
