"""What was chosen to be labelled, and why: indices, scores, a record each, and the pool."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from fastgradnorm._results import chosen
from fastgradnorm._results.scores import PoolScores
from fastgradnorm._validate import fail_type


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """Samples to label, best first.

    Attributes:
        indices: `[k]`, int64: indices in the dataset, or places in a pool without one.
        scores: Of the whole pool.
        records: A dict a chosen sample, best first: `index`, `rank` (1 is the first), `score`,
            `predicted` and `runner_up` (classes), `confidence` and `runner_up_probability`, and
            `coverage`: the share of the pool that it covers and nothing before it did; `alike`, how
            many other unlabelled samples are near-duplicates of it (a cosine of their points above
            0.99, or above `max_similarity`), and `alike_chosen`, the rank of the first one chosen
            before it that is, or None. All three are None where the strategy looks at no features.
        pool: What the model thinks of the pool: `samples`, `labelled`, `candidates`; `classes`, how
            often each is predicted; `confidence`, the mean and the 5, 50 and 95 % quantiles;
            `coverage`, of the pool before and after; `findings`, what was noticed.
        predicted: The class predicted for each sample of the pool, int64 `[N]`, in the order of
            `scores`.
        provenance: Strategy, seed, what restricted the choice, seconds.
    """

    indices: Tensor
    scores: PoolScores
    records: list[dict[str, Any]]
    pool: Mapping[str, Any]
    predicted: Tensor
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices.tolist())

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> list[int]: ...
    def __getitem__(self, place: int | slice) -> int | list[int]:
        """The index at a place, best first; of a slice a list of them."""
        if isinstance(place, str):
            raise fail_type("place", "a number or a slice", place, "`records` has what is known.")
        found: int | list[int] = self.indices[place].tolist()
        return found

    def __repr__(self) -> str:
        facts, pool = self.provenance, self.pool
        lines = [
            f"Selection({len(self)} of {pool['candidates']:,} samples by "
            f"{facts.get('strategy')!r}, seed {facts.get('seed')})",
            f"  first: {', '.join(map(str, self.indices[:8].tolist()))}"
            + (", ..." if len(self) > 8 else ""),
        ]
        counts = sorted(pool["classes"].items(), key=lambda pair: -pair[1])[:5]
        told = ", ".join(f"{name}: {count}" for name, count in counts)
        lines.append(
            f"  predicted in the pool: {told}{', ...' if len(pool['classes']) > 5 else ''}; mean "
            f"confidence {pool['confidence']['mean']:.3g}"
        )
        if pool.get("coverage"):
            before, after = pool["coverage"]["before"], pool["coverage"]["after"]
            lines.append(f"  covered: {100 * before:.3g} % of the pool before, {100 * after:.3g} %")
        doubts = [each["kind"] for each in pool["findings"] if each["level"] == "warn"]
        if doubts:
            lines.append(f"  in doubt: {', '.join(doubts)}; see pool['findings']")
        return "\n".join(lines)

    def to_records(
        self, ids: Any = None, columns: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """The records with an `id` each.

        Args:
            ids: One for each sample of the dataset, or a mapping from indices; by default indices.
            columns: What else each record is to have, by name: values as `ids` has them, such as
                `{"text": texts}`.
        """
        return chosen.with_ids(self.records, ids, columns)

    def to_csv(
        self, path: str | Path, ids: Any = None, columns: Mapping[str, Any] | None = None
    ) -> Path:
        """Writes a line a chosen sample, best first, as `to_records` has them; returns the path."""
        return chosen.write_csv(self.to_records(ids, columns), path)

    def to_jsonl(
        self, path: str | Path, ids: Any = None, columns: Mapping[str, Any] | None = None
    ) -> Path:
        """Writes a JSON object a line, best first, as `to_records`; returns the path."""
        return chosen.write_jsonl(self.to_records(ids, columns), path)

    def to_label_studio(
        self,
        path: str | Path,
        data: Any,
        *,
        field: str = "image",
        ids: Any = None,
        names: Sequence[str] | None = None,
    ) -> Path:
        """Writes tasks that Label Studio imports, in the order to label; returns the path.

        Each has `data` with the sample under `field`, `key` (its id), `score`, `rank`, `predicted`
        and `confidence`. Label Studio shows tasks in the order in which they came.

        Args:
            path: A `.json` file.
            data: Address or text of each sample of the dataset, or a mapping from indices.
            field: The name that the labelling configuration has for it, as in `$image`; none of
                those above.
            ids: As in `to_records`.
            names: Of the classes.
        """
        return chosen.write_tasks(self.to_records(ids), path, data, field, names)

    def to_argilla(
        self,
        path: str | Path,
        data: Any,
        *,
        field: str = "text",
        question: str = "label",
        ids: Any = None,
        names: Sequence[str] | None = None,
    ) -> Path:
        """Writes records that `dataset.records.from_json` of Argilla 2 takes; returns the path.

        Each has its id, the sample under `field`, and `score`, `rank` and `confidence` as metadata,
        by which Argilla sorts; with `names` the predicted class as a suggestion. Answers come back
        by `fastgradnorm.active.argilla_answers`.

        Args:
            path: A `.json` file.
            data: Text or address of each sample of the dataset, or a mapping from indices.
            field: The dataset's field.
            question: The dataset's question about the label.
            ids: As in `to_records`.
            names: Of the classes, as the question has them.
        """
        return chosen.write_argilla(self.to_records(ids), path, data, field, question, names)

    def to_fiftyone(self, ids: Any) -> dict[Any, dict[str, Any]]:
        """Fields for FiftyOne by sample id: `score`, `rank`, `predicted`, `confidence`.

        `dataset.set_values(field, {id: fields[field]}, key_field="id")` sets them; a view sorted
        by `rank` is the order to label.
        """
        kept = ("score", "rank", "predicted", "confidence")
        return {row["id"]: {name: row[name] for name in kept} for row in self.to_records(ids)}

    def report(
        self,
        folder: str | Path,
        *,
        ids: Any = None,
        picture: Any = None,
        text: Any = None,
        names: Sequence[str] | None = None,
        told: Mapping[str, str] | None = None,
        link: Any = None,
    ) -> Path:
        """Writes a page with the chosen, why they were, and the pool; returns its path.

        Args:
            folder: Made if it is not there; the page is its `index.html`.
            ids: As in `to_records`.
            picture: `index -> PIL image` or the path of one, for pictures of the samples; or one
                for each sample of the dataset.
            text: The text of each sample of the dataset, or a mapping from indices; its beginning
                is shown.
            names: Of the classes.
            told: Further facts for the page's end, such as `{"Model": "round 3"}`.
            link: `index -> address` of the sample itself, relative to the page; or one for each.
        """
        from fastgradnorm._results.selection_page import write

        return write(self, Path(folder), ids, picture, text, names, told or {}, link)

    def facts(self) -> str:
        """Pool and provenance as JSON."""
        return json.dumps({"pool": self.pool, "provenance": self.provenance}, default=str)
