"""Texts and tables on the command line: scores of each text alone, whatever file holds them."""

import csv
import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastgradnorm import acquire
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.texts import TEXTS, classifier, save, tokenizer

pytest.importorskip("transformers")

MODULE = """
import torch
from torch import nn

WORDS = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dull", "fine", "film", "good", "great", "not",
    "plot", "slow", "story", "the", "very",
)

class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(len(WORDS), 3)
    def forward(self, x):
        return self.head(x)

def counts(text):
    return torch.tensor([float(text.split().count(word)) for word in WORDS])

def make_bag():
    return Bag(), counts

class Ids(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(len(WORDS), 6), nn.Linear(6, 3)
    def forward(self, x):
        return self.head(self.words(x).mean(1))

def make_ids():
    return Ids()

def make_table():
    torch.manual_seed(0)
    return nn.Linear(3, 4)
"""


@pytest.fixture
def texts(folder, monkeypatch):
    """The texts as files of every kind, a fine-tuned model with its tokenizer, and a module."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    (folder / "text_model.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "text_model", raising=False)
    (folder / "pool.txt").write_text("\n".join(TEXTS) + "\n\n")
    rows = [{"name": f"t{i}", "body": text, "stars": i % 3} for i, text in enumerate(TEXTS)]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "pool.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.Table.from_pylist(rows), folder / "pool.parquet"
    )
    return save(folder / "tuned")


def exact(model):
    """By the oracle, each text alone, without padding."""
    made = [tokenizer()(text, return_tensors="pt")["input_ids"] for text in TEXTS]
    return oracle.scores(model, made, call=lambda model, ids: model(input_ids=ids).logits)


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def scores_of(folder):
    return torch.tensor([float(row["score"]) for row in read(folder / "scores.csv")])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_a_folder_of_transformers_scores_texts(run, folder, texts, kind):
    given = () if kind == "txt" else ("--text", "body", "--ids", "name")
    ran = run("score", "tuned", f"pool.{kind}", *given, "--batch-size", 5)
    assert ran.code == 0, ran.err
    assert_close_relative(scores_of(folder), exact(texts), 1e-4)
    names = [row["id"] for row in read(folder / "scores.csv")]
    assert names == [f"t{i}" if given else str(i) for i in range(len(TEXTS))]


@pytest.mark.slow
def test_what_is_not_said_is_found_and_told(run, folder, texts):
    ran = run("score", "tuned", "pool.csv", "--ids", "name")
    assert ran.code == 0, ran.err
    assert "Texts: the column 'body'" in ran.err
    assert_close_relative(scores_of(folder), exact(texts), 1e-4)
    ambiguous = run("score", "tuned", "pool.csv")
    assert ambiguous.code == 2
    assert "`--text` must say which column holds the texts" in ambiguous.err
    assert "name, body" in ambiguous.err


@pytest.mark.slow
def test_acquire_and_ask_choose_texts(run, folder, texts):
    chosen = ("tuned", "pool.jsonl", 4, "--text", "body", "--ids", "name", "--seed", 3)
    ran = run("acquire", *chosen, "--out", "to.csv", "--report", "page")
    assert ran.code == 0, ran.err
    make = tokenizer()
    pool = [dict(make(text, return_tensors="pt")) for text in TEXTS]
    expected = acquire(texts, pool, 4, seed=3, progress=False)
    assert ran.out.splitlines() == [f"t{i}" for i in expected]
    rows = read(folder / "to.csv")
    assert [row["text"] for row in rows] == [TEXTS[i] for i in expected]
    page = (folder / "page" / "index.html").read_text()
    assert all(TEXTS[i] in page for i in expected)
    asked = run("ask", *chosen)
    assert asked.code == 0, asked.err
    assert asked.out == ran.out
    again = run("acquire", *chosen[:2], 3, *chosen[3:], "--labelled", "to.csv")
    assert not {*again.out.splitlines()} & {*ran.out.splitlines()}


@pytest.mark.slow
def test_a_page_of_scores_has_the_texts(run, folder, texts):
    assert run("score", "tuned", "pool.txt", "--report", "page").code == 0
    page = (folder / "page" / "index.html").read_text()
    assert all(text in page for text in TEXTS)


@pytest.mark.slow
def test_a_model_of_ones_own_with_a_tokenizer_or_a_transform(run, folder, texts):
    space = {}
    exec(MODULE, space)
    asked = run(
        "score", "text_model:make_ids", "pool.txt", "--tokenizer", "tuned", "--batch-size", 1
    )
    assert asked.code == 0, asked.err
    model = space["make_ids"]().eval()
    ids = [tokenizer()(text, return_tensors="pt")["input_ids"] for text in TEXTS]
    assert_close_relative(
        scores_of(folder), torch.cat([oracle.scores(model, oracle.ones(x)) for x in ids]), 1e-4
    )
    assert run("score", "text_model:make_bag", "pool.csv", "--text", "body").code == 0
    model, counts = space["make_bag"]()
    inputs = torch.stack([counts(text) for text in TEXTS])
    assert_close_relative(scores_of(folder), oracle.scores(model.eval(), oracle.ones(inputs)), 1e-5)


@pytest.mark.slow
def test_the_length_of_texts(run, folder, texts):
    assert run("score", "tuned", "pool.txt", "--max-length", 3).code == 0
    short = scores_of(folder)
    first = {}
    for text, score in zip(TEXTS, short.tolist(), strict=True):  # [CLS] word [SEP]
        assert first.setdefault(text.split()[0], score) == pytest.approx(score, rel=1e-4)


@pytest.mark.slow
def test_rows_of_numbers(run, folder, texts):
    (folder / "table.csv").write_text(
        "id,a,b,c,y\n" + "".join(f"r{i},{i},{i / 2},{-i},1\n" for i in range(6))
    )
    ran = run(
        "score", "text_model:make_table", "table.csv", "--ids", "id", "--key", "a", "--key", "b",
        "--key", "c",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    space = {}
    exec(MODULE, space)
    x = torch.tensor([[i, i / 2, -i] for i in range(6)]).float()
    expected = oracle.scores(space["make_table"]().eval(), oracle.ones(x))
    assert_close_relative(scores_of(folder), expected, 1e-5)
    labelled = run(
        "score", "text_model:make_table", "table.csv", "--ids", "id", "--target", "y", "--loss",
        "cross_entropy",
    )  # fmt: skip
    assert labelled.code == 0, labelled.err


WRONG = {
    "no tokenizer": (
        ("text_model:make_ids", "pool.csv", "--text", "body", "--tokenizer", "nowhere"),
        "`--tokenizer` must be a folder with a tokenizer",
    ),
    "none": (("text_model:make_ids", "pool.txt"), "`--tokenizer` must be given for texts"),
    "no column": (
        ("tuned", "pool.csv", "--text", "bodi"),
        "`--text` must be one of name, body, stars. Got 'bodi'. Did you mean 'body'?",
    ),
    "no texts": (
        ("text_model:make_table", "pool.csv"), "Column 'name' of pool.csv must hold numbers"
    ),
    "no classifier": (("masked", "pool.txt"), "must be a classifier of transformers"),
    "no folder": (("hf:nobody/nothing", "pool.txt"), "`MODEL` must be a folder that"),
    "an empty text": (("tuned", "gaps.jsonl", "--text", "body"), "2 of 4 rows of gaps.jsonl"),
    "no JSON": (("tuned", "broken.jsonl"), "Line 2"),
    "a short row": (("tuned", "short.csv"), "Line 3 has 1"),
    "no name": (("tuned", "nameless.csv"), "a name for each column"),
    "nothing": (("tuned", "empty.txt"), "must hold at least one sample"),
    "another encoding": (("tuned", "latin.txt"), "must be text in UTF-8"),
    "another tokenizer": (
        ("tuned", "pool.txt", "--tokenizer", "larger"), "`--tokenizer` must be the model's own"
    ),
    "missing weights": (("headless", "pool.txt"), "lacks classifier"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_wrong(run, folder, texts, kind):
    (folder / "gaps.jsonl").write_text(
        '{"body": "a"}\n{"body": " "}\n{"body": "b"}\n{"name": "x"}\n'
    )
    (folder / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (folder / "short.csv").write_text("id,text\n1,a\n2\n")
    (folder / "nameless.csv").write_text("id,,text\n1,2,a\n")
    (folder / "empty.txt").write_text("\n \n")
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    if kind == "no classifier":
        save(folder / "masked", "BertForMaskedLM")
    if kind == "another tokenizer":
        larger = tokenizer()
        larger.add_tokens(["a great film"])
        larger.save_pretrained(folder / "larger")
    if kind == "missing weights":
        save(folder / "headless")
        state = classifier().bert.state_dict(prefix="bert.")
        from safetensors.torch import save_file

        save_file(state, folder / "headless" / "model.safetensors", {"format": "pt"})
    arguments, message = WRONG[kind]
    ran = run("score", *arguments)
    assert ran.code == 2, ran.err
    assert message in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.slow
def test_rows_without_text_are_left_out(run, folder, texts):
    (folder / "gaps.jsonl").write_text('{"body": "a"}\n{"body": " "}\n{"body": "fine"}\n')
    ran = run("score", "tuned", "gaps.jsonl", "--text", "body", "--skip-bad")
    assert ran.code == 0, ran.err
    assert "left out: 1: an empty text." in ran.err
    assert [row["id"] for row in read(folder / "scores.csv")] == ["0", "2"]


@pytest.mark.slow
def test_a_folder_of_transformers_scores_pictures(run, folder, images):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, num_labels=3, initializer_range=0.4,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(folder / "vit")
    without = run("score", "vit", "pool")
    assert without.code == 2
    assert "a file that says how pictures are prepared" in without.err
    prepared = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_normalize": True,
        "size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "vit" / "preprocessor_config.json").write_text(json.dumps(prepared))
    ran = run("score", "vit", "pool")
    assert ran.code == 0, ran.err
    small = []
    for name in sorted(images):
        with Image.open(folder / "pool" / name) as image:
            pixels = np.array(image.resize((8, 8), Image.Resampling.BILINEAR)) / 255
        small.append(torch.tensor((pixels - 0.5) / 0.5).permute(2, 0, 1)[None])
    exact = oracle.scores(model, small, call=lambda m, x: m(pixel_values=x).logits)
    assert_close_relative(scores_of(folder), exact, 1e-4)
