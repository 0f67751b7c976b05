"""`fastgradnorm ask`, `tell` and `status`: rounds of labels from people."""

import json
import re
from pathlib import Path

import pytest
import torch

from fastgradnorm import acquire

ASK = ("ask", "their_model:make", "pool")


def names(ran):
    assert ran.code == 0, ran.err
    return ran.out.splitlines()


def answer(folder, rows):
    lines = ["id,label", *(f"{name},{label}" for name, label in rows.items())]
    (folder / "answers.csv").write_text("\n".join(lines))


@pytest.mark.slow
@pytest.mark.filterwarnings("default:Batch 1 is open")
def test_rounds(run, folder):
    first = names(run(*ASK, 4))
    assert len({*first}) == 4
    assert names(run(*ASK, 9, "--strategy", "random", "--seed", 2)) == first  # it is still open
    answer(folder, {first[0]: "cat", first[1]: ""})
    assert "2 new or corrected" in run("tell", 1, "--answers", "answers.csv").out
    assert "0 new or corrected" in run("tell", 1, "--answers", "answers.csv").out
    assert names(run(*ASK, 4)) == first[2:]
    tasks = [
        {
            "data": {"key": name},
            "annotations": [{"result": [{"value": {"choices": ["dog"]}}], "updated_at": "2026"}],
        }
        for name in first[2:]
    ]
    (folder / "export.json").write_text(json.dumps(tasks))
    assert "2 new or corrected" in run("tell", 1, "--answers", "export.json").out
    responses = {"label": [{"value": "dog", "user_id": "u"}]}
    records = [{"id": name, "fields": {}, "responses": responses} for name in first[2:]]
    (folder / "argilla.json").write_text(json.dumps(records))
    assert "0 new or corrected" in run("tell", 1, "--answers", "argilla.json").out
    told = run("status").out
    assert "3 of 10 samples labelled, 1 skipped, in 1 round\n" in told
    second = run(*ASK, 6, "--paths")
    assert "Batch 2: 6 to label" in second.err
    assert not {*names(second)} & {f"pool/{name}" for name in first}
    assert all((folder / path).is_file() for path in names(second))
    assert "batch 2 waits for 6 answers" in run("status").out
    assert "6 without an answer may be asked again" in run("tell", 2, "--release").out
    assert len(names(run(*ASK, 6))) == 6


@pytest.mark.slow
def test_a_sample_with_several_labels_in_one_file_is_told(run, folder):
    """As where two people answered: the last counts, be it none."""
    first = names(run(*ASK, 4))
    rows = [("cat", "dog"), ("cat", ""), ("", "cat"), ("cat", " cat ")]
    lines = [f"{name},{label}" for name, both in zip(first, rows, strict=True) for label in both]
    (folder / "answers.csv").write_text("\n".join(["id,label", *lines]))
    ran = run("tell", 1, "--answers", "answers.csv")
    assert "4 new or corrected" in ran.out
    told = (
        f"3 samples have several labels, such as {first[0]!r}, 'cat' and 'dog': of these the last"
    )
    assert told in ran.err
    found = dict(line.split(",") for line in run("labels").out.split()[1:])
    assert found == {first[0]: "dog", first[2]: "cat", first[3]: "cat"}
    (folder / "answers.csv").write_text(f"id,label\n{first[1]},cat\n{first[1]},cat\n")
    assert "several" not in run("tell", 1, "--answers", "answers.csv").err


ASKED = [
    ({"strategy": "random", "seed": 0}, ()),
    ({"strategy": "random", "seed": 3}, ()),
    ({"strategy": "gumbel", "seed": 4}, ("--params", "all")),
    ({"strategy": "top", "seed": 0}, ("--scheme", "entropy", "--params", "all")),
    ({"strategy": "top", "seed": 0}, ("--scheme", "expected_squared")),
]


@pytest.mark.slow
@pytest.mark.parametrize("given, more", ASKED)
@pytest.mark.parametrize("command", ["ask", "acquire"])
def test_it_chooses_as_the_function_does_what_it_is_asked_for(
    run, model, images, command, given, more
):
    pool = dict(sorted(images.items()))
    options = {name.removeprefix("--"): value for name, value in zip(more[::2], more[1::2])}  # noqa: B905
    asked = {**given, **options, "progress": False}
    chosen = acquire(model, [torch.stack([*pool.values()])], 4, **asked)
    told = [f"--{name}={value}" for name, value in given.items()]
    found = names(run(command, "their_model:make", "pool", 4, *told, *more))
    assert found == [[*pool][i] for i in chosen]


@pytest.mark.slow
def test_what_has_an_answer_is_not_named_again(run, folder):
    first = names(run(*ASK, 4))
    answer(folder, {first[0]: "cat", first[2]: ""})
    assert run("tell", 1, "--answers", "answers.csv").code == 0
    assert names(run(*ASK, 4)) == [first[1], first[3]]


@pytest.mark.slow
def test_the_seed_of_each_round_follows_from_it(run, folder, model, images):
    pool, known = dict(sorted(images.items())), []
    for number in range(2):
        given = {"strategy": "random", "seed": 5 + number, "labelled": known, "progress": False}
        chosen = acquire(model, [torch.stack([*pool.values()])], 3, **given)
        found = names(run(*ASK, 3, "--strategy", "random", "--seed", 5))
        assert found == [[*pool][i] for i in chosen]
        known += chosen.indices.tolist()
        answer(folder, dict.fromkeys(found, "cat"))
        assert run("tell", number + 1, "--answers", "answers.csv").code == 0


@pytest.mark.slow
def test_campaigns_are_folders_of_their_own(run, folder):
    first = names(run(*ASK, 3, "--campaign", "a"))
    assert names(run(*ASK, 3, "--campaign", "b")) == first
    answer(folder, {first[0]: "cat"})
    assert run("tell", 1, "--campaign", "a", "--answers", "answers.csv").code == 0
    assert "1 of 10" in run("status", "--campaign", "a").out
    assert "0 of 10" in run("status", "--campaign", "b").out


@pytest.mark.parametrize(
    "arguments, match",
    [
        ((*ASK, 11), "`K` must be at most 10"),
        (("status", "--campaign", "nowhere"), "`--campaign` must be a folder in which"),
        (("tell", 1, "--campaign", "nowhere", "--release"), "`--campaign` must be a folder"),
    ],
)
def test_errors_before_anything_is_asked(run, folder, arguments, match):
    ran = run(*arguments)
    assert ran.code == 2
    assert match in ran.err


@pytest.mark.slow
def test_errors_of_answers(run, folder):
    first = names(run(*ASK, 3))
    answer(folder, {first[0]: "cat", "stranger.png": "dog"})
    asked = ("tell", 1, "--answers")
    for arguments, match in (
        ((*asked, "answers.csv"), "'stranger.png', which is not in it"),
        ((*asked, "nothing.csv"), "`--answers` cannot be read"),
        ((*asked, "their_model.py"), "`--answers` must be a CSV"),
        (("tell", 5, "--release"), "`BATCH` must be one that was asked"),
        (("tell", 1), "`--answers` must be a file"),
    ):
        ran = run(*arguments)
        assert ran.code == 2
        assert match in ran.err, ran.err
    assert "0 of 10" in run("status").out


SHEETS = {
    "a mark at the beginning": ("id,label", ",", "utf-8-sig"),
    "semicolons": ("id;label", ";", "utf-8"),
    "tabs and a mark": ("id\tlabel", "\t", "utf-8-sig"),
    "another order": ("label, id", ",", "utf-8"),
    "quotes": ('"id","label"', ",", "utf-8"),
}


@pytest.mark.slow
@pytest.mark.parametrize("sheet", SHEETS)
def test_answers_from_spreadsheets(run, folder, sheet):
    header, between, encoding = SHEETS[sheet]
    first = names(run(*ASK, 3))
    cells = [(first[0], "cat "), (first[1], " ")]
    cells = [pair[::-1] if header.startswith("label") else pair for pair in cells]
    rows = [between.join(pair) for pair in cells]
    (folder / "a.csv").write_text("\n".join([header, *rows, between, ""]), encoding=encoding)
    assert "2 new or corrected" in run("tell", 1, "--answers", "a.csv").out
    assert "1 of 10 samples labelled, 1 skipped" in run("status").out
    assert "0 new or corrected" in told(run, f"id,label\n{first[0]},cat\n")


def told(run, text):
    Path("again.csv").write_text(text)
    return run("tell", 1, "--answers", "again.csv").out


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, match",
    [
        ('[{"id": 1, "key": "a", "sentiment": "x"}]', "as in JSON-MIN"),
        ("[1, 2]", "Task 0 has none"),
        ('{"tasks": []}', "must be the list of tasks"),
    ],
)
def test_other_exports_are_told(run, folder, text, match):
    names(run(*ASK, 3))
    Path("a.json").write_text(text)
    ran = run("tell", 1, "--answers", "a.json")
    assert ran.code == 2
    assert match in ran.err


@pytest.mark.slow
def test_a_row_that_was_cut_off_is_not_a_skipped_sample(run, folder):
    first = names(run(*ASK, 3))
    (folder / "a.csv").write_text(f"id,label\n{first[0]},cat\n{first[1]}")
    ran = run("tell", 1, "--answers", "a.csv")
    assert ran.code == 2
    assert "line 3 has no 'label'" in ran.err
    assert "0 of 10" in run("status").out


@pytest.mark.slow
def test_labels_that_are_there_are_not_asked_for(run, folder, model, images):
    pool = dict(sorted(images.items()))
    known = [*pool][:4]
    truth = [f"{name},cat" for name in known[:3]] + [f"pool/{known[3]},dog", f"{[*pool][4]},"]
    (folder / "truth.csv").write_text("\n".join(["id,label", *truth]))
    for _ in range(2):  # the same command again
        ran = run(*ASK, 3, "--labelled", "truth.csv")
        chosen = acquire(
            model, [torch.stack([*pool.values()])], 3, labelled=range(4), progress=False
        )
        assert names(ran) == [[*pool][i] for i in chosen]
    assert "truth.csv: 1 without a label, which may be asked for" in ran.err
    assert "0 new or other labels" in ran.err
    assert "4 of 10 samples labelled, 0 skipped, in 1 round\n" in run("status").out
    wanted = ["id,label", *(f"{name},cat" for name in known[:3]), f"{known[3]},dog"]
    assert names(run("labels")) == wanted
    assert "4 labels" in run("labels", "--out", "made/labels.csv").err
    assert (folder / "made" / "labels.csv").read_text().splitlines() == wanted
    assert "0 new or other labels" in run(*ASK, 3, "--labelled", "made/labels.csv").err


@pytest.mark.parametrize(
    "text, match",
    [
        ("id,label\n4.png,cat\n3.png,x", r"`--labelled` must be of the pool\. Got '3.png'.* 'deep"),
        ("name,label\n3.png,cat", "`--labelled` must be a CSV.*no column 'id'"),
        (None, "`--labelled` cannot be read"),
    ],
)
def test_errors_of_labels_that_are_there(run, folder, text, match):
    if text is not None:
        (folder / "truth.csv").write_text(text)
    ran = run(*ASK, 3, "--labelled", "truth.csv")
    assert ran.code == 2
    assert re.search(match, ran.err), ran.err
    ran = run("labels", "--out", "labels.txt")
    assert ran.code == 2


@pytest.mark.slow
def test_answers_by_path(run, folder):
    paths = names(run(*ASK, 4, "--paths"))
    answer(folder, dict.fromkeys(paths, "cat"))
    assert "4 new or corrected" in run("tell", 1, "--answers", "answers.csv").out
    answer(folder, {paths[0].replace("pool/", "photos/"): "dog"})
    ran = run("tell", 1, "--answers", "answers.csv")
    assert ran.code == 2
    assert f"Did you mean {paths[0].removeprefix('pool/')!r}?" in ran.err


@pytest.mark.slow
@pytest.mark.filterwarnings("default:Batch 1 is open")
def test_an_open_batch_is_told(run, folder):
    first = run(*ASK, 4)
    assert "is open" not in first.err
    assert "is open" not in run(*ASK, 4).err
    ran = run(*ASK, 6, "--strategy", "margin")
    assert ran.out == first.out
    assert "Batch 1 is open: its 4 samples are given again." in ran.err
    assert "for `K=6` and `--strategy=margin` to take effect" in ran.err


@pytest.mark.slow
def test_a_mistyped_folder_is_told(run, folder):
    run(*ASK, 3, "--campaign", "labels")
    for arguments in (("status",), ("tell", 1, "--release"), ("labels",)):
        ran = run(*arguments, "--campaign", "labls")
        assert ran.code == 2
        assert "`--campaign` must be a folder in which" in ran.err
        assert "Did you mean 'labels'?" in ran.err
        assert not (folder / "labls").exists()
