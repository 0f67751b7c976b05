"""What stopped newcomers, as `docs/upgrading.md` lists it: the tests that hold each."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

HELD = {
    1: ["cli/test_cli_demo.py", "acquire/test_selection.py"],
    2: ["active/test_campaign.py", "cli/test_cli_campaign.py", "acquire/test_everywhere.py"],
    3: ["witness/test_scores.py", "witness/test_seen_logits.py", "cli/test_cli_score.py"],
    4: ["cli/test_cli_images.py::test_grey_keeps_its_range"],
    5: ["test_docs.py::test_readers_see_all_the_code_that_runs"],
    6: ["test_docs.py::test_the_api_page_has_each_name_with_its_signature_and_no_broken_section",
        "test_docs.py::test_the_site_needs_no_network"],
    7: ["test_examples.py::test_each_has_a_test_and_a_line", "test_examples.py::test_timm_folders",
        "test_examples.py::test_text_lora"],
    8: ["test_first_hour.py::test_the_readme_is_short"],
    9: ["cli/test_cli_texts.py"],
    10: ["cli/test_cli_acquire.py::test_paths_are_what_other_commands_take"],
    11: ["pool/test_what_is_remembered.py::test_what_failed_before_its_first_score_blocks_nothing",
         "pool/test_held_back.py::test_a_resumed_run_may_have_another_batch_size"],
    12: ["cli/test_cli_cures.py", "cli/test_cli_newcomer.py", "cli/test_cli_unfit.py",
         "test_newcomer.py"],
    13: ["acquire/test_selection.py", "acquire/test_near_duplicates.py", "browser/test_pages.py"],
    14: ["cli/test_cli_newcomer.py::test_what_is_explained_has_a_legend",
         "cli/test_cli_score.py::test_explain_and_bench"],
    15: ["test_types.py::test_typed_calls_run"],
    16: ["results/test_conveniences.py::test_select_gives_dataset_indices",
         "results/test_conveniences.py::test_indexing_and_iteration",
         "results/test_conveniences.py::test_a_table_of_pandas"],
    17: ["test_types.py::test_help_says_what_each_option_does",
         "results/test_results.py::test_a_run_and_what_was_noticed_are_logged",
         "integrations/test_skorch.py::test_a_pipeline_is_scored_by_what_its_steps_make"],
}  # fmt: skip


def test_each_line_of_the_page_is_held():
    page = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == [*HELD]


@pytest.mark.parametrize("place", [place for places in HELD.values() for place in places])
def test_what_holds_it_is_there(place):
    path, _, name = place.partition("::")
    text = (ROOT / "tests" / path).read_text(encoding="utf-8")
    assert f"def {name or 'test'}" in text


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
