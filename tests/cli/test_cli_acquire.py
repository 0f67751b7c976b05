"""`fastgradnorm acquire`: from a model and a pool to files to label."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgradnorm import acquire


def names(ran):
    assert ran.code == 0, ran.err
    return ran.out.splitlines()


@pytest.mark.slow
def test_a_folder_in_names_out_as_the_function_chooses(run, model, images):
    pool = dict(sorted(images.items()))
    chosen = acquire(model, [torch.stack([*pool.values()])], 4, progress=False)
    assert names(run("acquire", "their_model:make", "pool", 4)) == [[*pool][i] for i in chosen]


@pytest.mark.slow
def test_a_table_in(run, folder):
    x = np.random.default_rng(0).normal(size=(20, 3, 6, 6)).astype(np.float32)
    np.savez(folder / "pool.npz", x=x, name=np.array([f"row {i}" for i in range(20)]))
    asked = ("acquire", "their_model:make", "pool.npz", 3, "--key", "x", "--ids", "name")
    found = names(run(*asked))
    assert len({*found}) == 3
    assert all(name.startswith("row ") for name in found)
    for refused in ("--paths", "--copy-to=a", "--link-to=a", "--max-per-folder=1"):
        ran = run(*asked, refused)
        assert ran.code == 2
        assert "must be left out where the pool is no folder" in ran.err


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
def test_what_is_labelled_is_not_chosen_again(run, folder, suffix):
    first = names(run("acquire", "their_model:make", "pool", 6, "--out", f"a/to.{suffix}"))
    assert (folder / "a" / f"to.{suffix}").exists()
    again = run("acquire", "their_model:make", "pool", 4, "--labelled", f"a/to.{suffix}")
    assert not {*names(again)} & {*first}
    more = run("acquire", "their_model:make", "pool", 5, "--labelled", f"a/to.{suffix}")
    assert more.code == 2
    assert "`K` must be at most 4" in more.err


@pytest.mark.slow
def test_other_samples_are_a_folder(run, folder, model, images):
    (folder / "known").mkdir()
    (folder / "pool" / "0.png").rename(folder / "known" / "0.png")
    pool = dict(sorted(images.items()))
    known = pool.pop("0.png")[None]
    asked = {"strategy": "coreset", "progress": False}
    chosen = acquire(model, [torch.stack([*pool.values()])], 3, labelled=[known], **asked)
    ran = run(
        "acquire", "their_model:make", "pool", 3, "--labelled", "known", "--strategy", "coreset"
    )
    assert names(ran) == [[*pool][i] for i in chosen]


@pytest.mark.slow
def test_files_go_where_people_label_them(run, folder):
    ran = run("acquire", "their_model:make", "pool", 5, "--copy-to", "label", "--link-to", "links")
    for name in names(ran):
        source = folder / "pool" / name
        assert (folder / "label" / name).read_bytes() == source.read_bytes()
        assert (folder / "links" / name).resolve() == source.resolve()
    assert sum(path.is_file() for path in (folder / "label").rglob("*")) == 5
    again = run(
        "acquire", "their_model:make", "pool", 5, "--copy-to", "label", "--link-to", "links"
    )
    assert again.code == 0
    (folder / "label" / ran.out.splitlines()[2]).write_bytes(b"other")
    spoilt = run("acquire", "their_model:make", "pool", 5, "--copy-to", "label")
    assert spoilt.code == 2
    assert "no other files of the same names" in spoilt.err


@pytest.mark.slow
def test_paths_are_what_other_commands_take(run, folder):
    found = names(run("acquire", "their_model:make", "pool", 3, "--paths"))
    assert all(Path(folder / path).is_file() for path in found)
    (folder / "labelled.txt").write_text("\n".join(found))
    rest = names(run("acquire", "their_model:make", "pool", 7, "--labelled", "labelled.txt"))
    assert not {f"pool/{name}" for name in rest} & {*found}


@pytest.mark.slow
def test_few_of_a_folder(run):
    found = names(run("acquire", "their_model:make", "pool", 4, "--max-per-folder", 2))
    assert sum(name.startswith("deeper") for name in found) == 2
    ran = run("acquire", "their_model:make", "pool", 5, "--max-per-folder", 2)
    assert ran.code == 2
    assert "`K` must be at most 4" in ran.err
    assert "`--max-per-folder`" in ran.err


@pytest.mark.slow
def test_near_duplicates_and_workers(run, folder):
    for i in range(1, 10, 2):
        (folder / f"pool/{i}.png").write_bytes((folder / f"pool/deeper/{i}.png").read_bytes())
    asked = ("acquire", "their_model:make", "pool")
    assert len({*names(run(*asked, 15))}) == 15
    ran = run(*asked, 15, "--max-similarity", "0.99999")
    assert ran.code == 2
    most = re.search(r"`K` must be at most (\d+).*`--max-similarity`", ran.err)
    assert 0 < int(most[1]) <= 10
    few = run(*asked, most[1], "--max-similarity", "0.99999", "--workers", 1)
    assert len({Path(name).name for name in names(few)}) == int(most[1])


@pytest.mark.slow
def test_records_and_a_page(run, folder):
    ran = run("acquire", "their_model:make", "pool", 4, "--out", "a.csv", "--report", "r")
    rows = list(csv.DictReader((folder / "a.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == names(ran)
    assert {"score", "predicted", "confidence", "runner_up", "coverage"} <= rows[0].keys()
    page = (folder / "r" / "index.html").read_text()
    assert page.count("<img") == 4
    assert rows[0]["id"] in page
    names(run("acquire", "their_model:make", "pool", 4, "--out", "a.jsonl"))
    lines = (folder / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [row["id"] for row in rows]


@pytest.mark.slow
def test_strategies_and_scores(run):
    plain = names(run("acquire", "their_model:make", "pool", 4, "--strategy", "top"))
    whole = run("acquire", "their_model:make", "pool", 4, "--strategy", "top", "--params", "all")
    named = names(run("acquire", "their_model:make", "pool", 4, "--strategy", "expected/all/top"))
    assert names(whole) == named
    scored = run("acquire", "their_model:make", "pool", 10, "--strategy", "random", "--seed", 3)
    assert sorted(names(scored)) != scored.out.splitlines()
    assert len(plain) == 4


@pytest.mark.parametrize(
    "arguments, match",
    [
        (("pool", 11), "`K` must be at most 10"),
        (("pool", 2, "--strategy", "herdin"), "`--strategy` must be one that is known"),
        (("pool", 2, "--labelled", "nothing"), "`--labelled` must be a folder that is there"),
        (("pool", 2, "--labelled", "their_model.py"), "`--labelled` must be a folder"),
        (("pool", 2, "--out", "a.xls"), "`--out` must end in"),
        (("pool", 2, "--copy-to", "pool/chosen"), "outside of the pool"),
        (("pool", 2, "--copy-to", "pool"), "outside of the pool"),
        (("pool", 2, "--copy-to", "their_model.py"), "`--copy-to` must be a folder"),
        (("pool", 2, "--max-similarity", "0"), "`--max-similarity` must be"),
        (("nowhere", 2), "`POOL` must be a folder or file"),
    ],
)
def test_errors_name_the_option(run, arguments, match):
    ran = run("acquire", "their_model:make", *arguments)
    assert ran.code == 2
    assert match in ran.err
    assert ran.out == ""


def test_a_name_that_is_not_in_the_pool(run, folder):
    (folder / "a.txt").write_text("1.png\nstranger.png\n")
    ran = run("acquire", "their_model:make", "pool", 2, "--labelled", "a.txt")
    assert ran.code == 2
    assert "'stranger.png'" in ran.err or "'1.png'" in ran.err
    (folder / "a.csv").write_text("name\n1.png\n")
    ran = run("acquire", "their_model:make", "pool", 2, "--labelled", "a.csv")
    assert ran.code == 2
    assert "a name a line (.txt), or a column `id`" in ran.err
    assert "there is no column 'id' in the first line, which has 'name'" in ran.err


SHEETS = {
    "a mark at the beginning": b"\xef\xbb\xbfid,label\r\n%s,cat\r\n",
    "semicolons": b"id;label\n%s;cat\n",
    "tabs": b"label\tid\ncat\t%s\n",
    "other columns": b"no, id ,label\n7,%s,\n",
    "quotes": b'"id","label"\n"%s","cat, or dog"\n',
    "empty rows": b"id,label\n%s,cat\n,\n\n",
    "one column": b"id\n%s\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("sheet", SHEETS)
def test_lists_from_spreadsheets(run, folder, sheet):
    name = names(run("acquire", "their_model:make", "pool", 1))[0]
    (folder / "a.csv").write_bytes(SHEETS[sheet].replace(b"%s", name.encode()))
    ran = names(run("acquire", "their_model:make", "pool", 9, "--labelled", "a.csv"))
    assert len({*ran}) == 9
    assert name not in ran


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix, text, match",
    [
        ("csv", "{name}\n", "there is no column 'id'"),  # a list without a header
        ("csv", "", "there is no column 'id' in the first line, which has none"),
        ("csv", "label,id\ncat,{name}\ndog\n", "line 3 has no 'id'"),
        ("jsonl", '{{"name": "{name}"}}\n', "'id'"),
    ],
)
def test_lists_that_name_nothing_are_not_taken_for_empty_ones(run, folder, suffix, text, match):
    name = names(run("acquire", "their_model:make", "pool", 1))[0]
    (folder / f"a.{suffix}").write_text(text.format(name=name))
    ran = run("acquire", "their_model:make", "pool", 1, "--labelled", f"a.{suffix}")
    assert ran.code == 2
    assert match in ran.err


@pytest.mark.slow
def test_a_text_with_a_mark_at_its_beginning(run, folder):
    name = names(run("acquire", "their_model:make", "pool", 1))[0]
    (folder / "a.txt").write_text(f"{name}\n", encoding="utf-8-sig")
    assert name not in names(run("acquire", "their_model:make", "pool", 9, "--labelled", "a.txt"))
