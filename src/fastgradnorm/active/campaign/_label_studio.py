"""Answers as Label Studio exports them."""

import datetime
import math
from collections.abc import Iterable, Mapping
from typing import Any

from fastgradnorm import ArgumentError


def label_studio_answers(tasks: Iterable[Mapping[str, Any]], key: str = "key") -> dict[str, Any]:
    """Labels by key, for `Campaign.tell`, from Label Studio's JSON export of all tasks.

    Of several annotations of a task the one that was updated last counts. Tasks without one are
    left out; skipped and empty ones are None. One choice is its text; all else is the list of
    results as it stands.

    Args:
        tasks: What `exportType=JSON` gives, read as JSON.
        key: The name in each task's `data` that holds the key, as `Selection.to_label_studio` has.

    Raises:
        ValueError: If a task has no such name.
    """
    found: dict[str, Any] = {}
    if isinstance(tasks, (str, bytes, Mapping)):
        raise ArgumentError(
            "`tasks` must be the list of tasks that `exportType=JSON` gives. Got "
            f"{type(tasks).__name__}.",
            "tasks",
        )
    for place, task in enumerate(tasks):
        data = task.get("data") if isinstance(task, Mapping) else None
        if not isinstance(data, Mapping):
            raise ArgumentError(
                "`tasks` must be what `exportType=JSON` gives, tasks with their data. Task "
                f"{place} has none, as in JSON-MIN.",
                "tasks",
            )
        if key not in data:
            raise ArgumentError(
                f"`tasks` must have {key!r} in their data. Task {place} has "
                f"{', '.join(map(str, data)) or 'none'}. Import tasks with a key.",
                "tasks",
            )
        annotations = task.get("annotations") or ()
        if annotations:
            latest = max(annotations, key=_updated)
            found[str(task["data"][key])] = _answer(latest)
    return found


def _updated(annotation: Mapping[str, Any]) -> tuple[float, str]:
    """When: whole seconds are written without a fraction, and zones may differ."""
    text = str(annotation.get("updated_at") or annotation.get("created_at") or "")
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return -math.inf, text
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return when.timestamp(), text


def _answer(annotation: Mapping[str, Any]) -> Any:
    results = annotation.get("result") or []
    if annotation.get("was_cancelled") or not results:
        return None
    choices = (results[0].get("value") or {}).get("choices")
    return choices[0] if len(results) == 1 and choices and len(choices) == 1 else results
