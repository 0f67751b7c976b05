"""Answers as Argilla 2 exports them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from fastgradnorm import ArgumentError


def argilla_answers(records: Iterable[Any], question: str = "label") -> dict[str, Any]:
    """Labels by key, for `Campaign.tell`, from the records of an Argilla dataset.

    Of several people's answers the most frequent counts, and of equally frequent ones the first.
    Records without an answer are left out.

    Args:
        records: `dataset.records(with_responses=True)`, of which drafts are left out, and those
            that everybody discarded are None; or what `dataset.records.to_json` wrote, read as
            JSON, which does not tell drafts and discarded answers from others.
        question: The name of the question.

    Raises:
        ValueError: If a record has no id.
    """
    found: dict[str, Any] = {}
    for place, record in enumerate(records):
        plain = isinstance(record, Mapping)
        if not plain and not hasattr(record, "responses"):
            raise ArgumentError(
                "`records` must be records of Argilla, or what `to_json` wrote of them. Record "
                f"{place} is {type(record).__name__}.",
                "records",
            )
        key = record.get("id") if plain else record.id
        if key is None:
            raise ArgumentError(
                f"`records` must have an id each. Record {place} has none. Log them as "
                "`Selection.to_argilla` writes them.",
                "records",
            )
        values, discarded = _of_json(record, question) if plain else _of_object(record, question)
        if values:
            # Values may be lists, of several labels.
            counts = Counter(map(repr, values))
            found[str(key)] = max(values, key=lambda value: counts[repr(value)])
        elif discarded:
            found[str(key)] = None
    return found


def _of_json(record: Mapping[str, Any], question: str) -> tuple[list[Any], bool]:
    told = record.get("responses") or {}
    return [each["value"] for each in told.get(question, ())], False


def _of_object(record: Any, question: str) -> tuple[list[Any], bool]:
    told = [each for each in record.responses if each.question_name == question]
    states = [getattr(each.status, "value", each.status) for each in told]
    pairs = list(zip(told, states, strict=True))
    # A response that was made here, and not read from the server, has no state.
    values = [each.value for each, state in pairs if state in (None, "submitted")]
    return values, "discarded" in states
