"""Scores of a pool with all that is needed to know how they came about."""

import html
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgradnorm._errors import ArgumentError
from fastgradnorm._results import export
from fastgradnorm._selection import Strategy, select
from fastgradnorm._validate import fail_type
from fastgradnorm.atomic import replacing

_FORMAT = 1


@dataclass(frozen=True, eq=False, repr=False)
class PoolScores:
    """Scores of a pool, in the order in which the loader draws its samples.

    Attributes:
        values: `[N]`, float32 (float64 for a float64 model), on the CPU; higher is labelled first.
        standard_error: `[N]` where scores were estimated from drawn labels, else None; 0 for those
            that are exact.
        provenance: Scheme, parameters counted, versions, device, seed, seconds and the options; for
            `rtol > 0` also the number of pull-backs, over all samples. `"findings"`: what was
            noticed about outputs, inputs and scores, each with `kind`, `message` and `level`.
            `"verified"`: what was compared with the model's own calls, and how closely it agreed;
            None with `verify=False`. `"replays"`: of how many passes, how many were replayed from
            traced ones (captured ones on a GPU), what tracing took, and why others were not traced.
        indices: `[N]`, int64: score i is of `loader.dataset[indices[i]]`, whatever its sampler
            draws; of a `subset` of a pool without a dataset, places in the pool. None where they
            are 0 to N - 1, and where they cannot be told.
        by_group: With `group_by`, squared norms `[N]` of each group of parameters, by its name; of
            one gradient they sum to the square of the score, of an average over the labels to the
            `"expected_squared"` score.
    """

    values: Tensor
    standard_error: Tensor | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    indices: Tensor | None = None
    by_group: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: Any) -> Any:
        """The score at a place as a number; of slices, lists and masks a tensor."""
        if isinstance(place, str):
            advice = "By a sample's name: `scores.to_pandas(ids=names).loc[name]`."
            raise fail_type("place", "a number, a slice, a list or a mask", place, advice)
        found = self.values[place]
        return found if found.dim() else float(found)

    def __iter__(self) -> Iterator[float]:
        return iter(self.values.tolist())

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    def __repr__(self) -> str:
        scheme = self.provenance.get("scheme", "scores")
        bad = int((~self.values.isfinite()).sum())
        whole = self.provenance.get("samples", {}).get("dataset")
        count = f"{len(self)} of {whole}" if whole not in (None, len(self)) else str(len(self))
        lines = [f"PoolScores({scheme}, {count} samples{f', {bad} not finite' if bad else ''})"]
        finite = self.values[self.values.isfinite()].double()
        if len(finite):
            levels = torch.tensor([0.05, 0.5, 0.95], dtype=finite.dtype, device="cpu")
            low, middle, high = torch.quantile(_thinned(finite), levels)
            lines.append(
                f"  min {float(finite.min()):.4g}  5% {float(low):.4g}  "
                f"median {float(middle):.4g}  95% {float(high):.4g}  max {float(finite.max()):.4g}"
            )
        counted = self.provenance.get("parameters", {})
        if counted:
            lines.append(
                f"  over {counted['elements']:,} elements of {counted['tensors']} parameters "
                f"({counted['selected']}), {self.provenance.get('seconds', 0):.2f} s on "
                f"{self.provenance.get('device')}"
            )
        findings = self.provenance.get("findings", ())
        doubts = [each["kind"] for each in findings if each["level"] == "warn"]
        if doubts:
            lines.append(f"  in doubt: {', '.join(doubts)}; see provenance['findings']")
        if self.verified:
            lines.append(f"  verified: {self.verified}")
        if self.standard_error is not None:
            lines.append(f"  standard error: mean {float(self.standard_error.mean()):.3g}")
        return "\n".join(lines)

    @property
    def verified(self) -> str:
        """What was compared with the model's own calls, in words; empty if that is not known."""
        facts = self.provenance.get("verified")
        if not facts:
            return ""
        return (
            f"logits of {facts['rows']:,} samples, gradients of {facts['samples']:,}, scores of "
            f"{facts['scores']:,}, to {facts['largest_difference']:.1g} ({facts['mode']!r})"
        )

    def select(self, k: int, *, strategy: Strategy = "top", seed: int = 0) -> Tensor:
        """Dataset indices of the `k` samples to label, best first; see `fastgradnorm.select`.

        `fastgradnorm.select(scores.values, k)` gives their places in the scores instead. A sample
        that was scored more than once is a candidate once, with its first score.
        """
        values = self.values
        if self.indices is not None:
            _, first = np.unique(self.indices.numpy(), return_index=True)
            values = torch.full_like(values, torch.nan)
            values[first] = self.values[first]
        chosen = select(values, k, strategy=strategy, seed=seed)
        return chosen if self.indices is None else self.indices[chosen]

    def to_numpy(self) -> np.ndarray:
        """The values as an array `[N]`."""
        return self.values.numpy()

    def to_records(
        self,
        ids: export.Ids | None = None,
        low_first: bool = False,
        columns: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """A dict a sample, in pool order, for labelling tools.

        Args:
            ids: One a score; by default the samples' indices in the dataset. Where the scores have
                `indices`, also one for each sample of the dataset, or a mapping from indices.
            low_first: For tools that label low scores first: `score` is `1 - percentile`, and
                `gradient_norm` holds the norm.
            columns: What else each is to have, by name: values as `ids` has them, such as
                `{"text": texts}`.

        Returns:
            Dicts with `id`, `score` (the norm), `rank` (1 is labelled first; ties in pool order),
            `percentile` (1 for the first, 0 for the last), `inverted_score` (`1 - percentile`),
            and `standard_error` where there is one. For a NaN score all of them but `id` are None:
            it has no rank, and no tool takes it for the best.

        Raises:
            ValueError: If there are not as many `ids`, or values of a column, as scores, or if it
                cannot be told whether they are in the order of the scores or of the dataset.

        Example:
            >>> PoolScores(torch.tensor([0.5, 2.0])).to_records(ids=["a", "b"])[1]
            {'id': 'b', 'score': 2.0, 'rank': 1, 'percentile': 1.0, 'inverted_score': 0.0}
        """
        return export.records(self, ids, low_first, columns)

    def to_pandas(
        self,
        ids: export.Ids | None = None,
        low_first: bool = False,
        columns: Mapping[str, Any] | None = None,
    ) -> Any:
        """The rows of `to_records` as a `pandas.DataFrame`, indexed by `id`.

        Raises:
            ModuleNotFoundError: Without pandas: `pip install pandas`.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("`to_pandas` needs pandas: `pip install pandas`.") from error
        return pandas.DataFrame(self.to_records(ids, low_first, columns)).set_index("id")

    def to_csv(
        self,
        path: str | Path,
        ids: export.Ids | None = None,
        low_first: bool = False,
        columns: Mapping[str, Any] | None = None,
    ) -> Path:
        """Writes the rows of `to_records` as CSV, whole or not at all; NaN is an empty cell."""
        return export.write_csv(self, path, ids, low_first, columns)

    def to_jsonl(
        self,
        path: str | Path,
        ids: export.Ids | None = None,
        low_first: bool = False,
        columns: Mapping[str, Any] | None = None,
    ) -> Path:
        """Writes them as JSON lines, whole or not at all; NaN and infinite scores are null."""
        return export.write_jsonl(self, path, ids, low_first, columns)

    def to_parquet(
        self,
        path: str | Path,
        ids: export.Ids | None = None,
        low_first: bool = False,
        columns: Mapping[str, Any] | None = None,
    ) -> Path:
        """Writes them as Parquet, whole or not at all; NaN is null. Needs pyarrow.

        The provenance is JSON under `fastgradnorm` in the schema's metadata.

        Raises:
            ModuleNotFoundError: Without pyarrow, which the extra `parquet` brings.
        """
        return export.write_parquet(self, path, ids, low_first, columns)

    def save(self, path: str | Path) -> Path:
        """Writes everything to one npz file, whole or not at all.

        Returns:
            The path written.
        """
        arrays = {"values": self.values.numpy()}
        if self.standard_error is not None:
            arrays["standard_error"] = self.standard_error.numpy()
        if self.indices is not None:
            arrays["indices"] = self.indices.numpy()
        facts: dict[str, Any] = {"format": _FORMAT, **self.provenance}
        if self.by_group:
            facts["groups"] = list(self.by_group)
            arrays["by_group"] = torch.stack([*self.by_group.values()]).numpy()
        arrays["provenance"] = np.array(json.dumps(facts))
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "PoolScores":
        """Reads what `save` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not one that `save` wrote whole.
        """
        if Path(path).suffix in (".csv", ".jsonl", ".parquet"):
            raise ArgumentError(
                f"`path` must be a file that PoolScores.save wrote. Got {str(path)!r}, a table for "
                "other programs, without the provenance. Save what is to be loaded as .npz.",
                "path",
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                values = torch.from_numpy(file["values"])
                error, indices = file.get("standard_error"), file.get("indices")
                provenance = json.loads(str(file["provenance"]))
                names, rows = provenance.pop("groups", []), file.get("by_group", [])
                by_group = {n: torch.from_numpy(r) for n, r in zip(names, rows, strict=True)}
        except FileNotFoundError:
            raise
        except Exception as error_:
            raise ArgumentError(
                f"`path` must be a file that PoolScores.save wrote. Got {str(path)!r}: "
                f"{type(error_).__name__}: {str(error_).partition('. If you trust')[0]}",
                "path",
            ) from error_
        provenance.pop("format", None)
        return cls(
            values,
            None if error is None else torch.from_numpy(error),
            provenance,
            None if indices is None else torch.from_numpy(indices),
            by_group,
        )


def _thinned(values: Tensor, most: int = 1_000_000) -> Tensor:
    """`torch.quantile` takes 16 million values at most; a part is enough to print."""
    return values[:: len(values) // most + 1]
