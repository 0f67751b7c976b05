"""What a run reads and scores at a time: sizes of batches, and widths of texts."""

from fastgradnorm import GradNormScorer
from fastgradnorm._model import Reader
from fastgradnorm._pool import bundles, gather


def sizes_read(monkeypatch, model, loader, **options):
    """Samples of each batch that the reader makes, however slowly they come."""
    sizes, usual = [], Reader.read

    def read(self, raw, drawn=None):
        batch = usual(self, raw, drawn)
        sizes.append(len(batch))
        return batch

    monkeypatch.setattr(Reader, "read", read)
    monkeypatch.setattr(bundles, "_SECONDS", 1e9)
    GradNormScorer(model, verify=False, progress=False, **options).score(loader)
    return sizes


def widths_scored(monkeypatch):
    """A list, to which the width of each batch of texts that is scored from now on is added."""
    seen, real = [], gather.score_one

    def score_one(engine, batch):
        seen.append(batch.leaves[0].shape[1])
        return real(engine, batch)

    monkeypatch.setattr(gather, "score_one", score_one)
    return seen
