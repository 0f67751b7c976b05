"""What a campaign is given that is none of its own: told by name."""

import numpy as np
import pytest

from fastgradnorm.active import Campaign, argilla_answers, label_studio_answers
from tests.support.campaigns import KEYS, ask, campaign


def test_the_number_of_a_batch_may_be_of_any_integer_type(tmp_path):
    made = campaign(tmp_path)
    batch = ask(made)
    assert made.tell(np.int64(batch.id), {batch.keys[0]: 1}) == 1
    assert campaign(tmp_path).labelled == {batch.keys[0]: 1}
    for number in ("1", [1], None, 1.5, 2):
        with pytest.raises(ValueError, match="`batch` must be one that was asked"):
            made.tell(number, {})


def test_columns_are_told_how_to_be_passed(tmp_path):
    pandas = pytest.importorskip("pandas")
    made = campaign(tmp_path)
    batch = ask(made)
    column = pandas.Series({batch.keys[0]: "cat"})
    with pytest.raises(TypeError, match=r"Pass `answers\.to_dict\(\)`"):
        made.tell(batch, column)
    assert made.tell(batch, column.to_dict()) == 1
    with pytest.raises(TypeError, match=r"`pool` must be a dataset.*Got DataFrame"):
        Campaign(tmp_path / "other", pandas.DataFrame({"a": [1, 2]}), ["x", "y"])


@pytest.mark.slow
def test_a_pool_of_which_all_was_skipped(tmp_path):
    made = campaign(tmp_path)
    batch = ask(made, len(KEYS))
    made.tell(batch, dict.fromkeys(batch.keys))
    with pytest.raises(ValueError, match=r"All .* were skipped"):
        ask(made, 1)


def test_exports_that_are_none():
    for tasks in ({"a": 1}, "abc", [1], [{"id": 1, "key": "a"}], [{"data": None}]):
        with pytest.raises(ValueError, match="`tasks` must be"):
            label_studio_answers(tasks)
    for records in ("abc", [1]):
        with pytest.raises(ValueError, match="`records` must be records of Argilla"):
            argilla_answers(records)
    empty = {"data": {"key": "a"}, "annotations": [{"result": [{"value": None}]}]}
    assert label_studio_answers([empty]) == {"a": [{"value": None}]}
    assert argilla_answers([{"id": "a", "responses": None}]) == {}
