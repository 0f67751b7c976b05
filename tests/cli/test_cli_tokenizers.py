"""A tokenizer that is not there, is empty, or is another model's; and no network to ask for one."""

import http.server
import json
import os
import socket
import threading
import time

import pytest

from fastgradnorm.cli import _hub
from tests.support.texts import TEXTS, classifier, save, tokenizer

pytest.importorskip("transformers")


@pytest.fixture
def tuned(folder):
    os.environ["HF_HUB_OFFLINE"] = "1"
    (folder / "pool.txt").write_text("\n".join(TEXTS))
    save(folder / "tuned")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", ["acquire", "score"])
def test_a_folder_without_a_tokenizer(run, tuned, command):
    """The library makes one of the kind of model, to which every word is unknown."""
    classifier().save_pretrained(tuned / "alone")
    ran = run(command, "alone", "pool.txt", *(["3"] if command == "acquire" else []))
    assert ran.code == 2
    assert "`--tokenizer` must be given: alone holds no tokenizer" in ran.err
    assert "tokenizer.save_pretrained('alone')" in ran.err
    assert run("acquire", "alone", "pool.txt", 3, "--tokenizer", "tuned").code == 0


@pytest.mark.parametrize(
    "kind", ["bert", "gpt2", "roberta", "t5", "albert", "xlm-roberta", "llama"]
)
def test_folders_of_which_the_library_makes_an_empty_tokenizer(run, tuned, kind):
    (tuned / "empty").mkdir()
    (tuned / "empty" / "config.json").write_text(json.dumps({"model_type": kind}))
    ran = run("acquire", "tuned", "pool.txt", 3, "--tokenizer", "empty")
    assert ran.code == 2
    assert "empty holds no tokenizer" in ran.err


@pytest.mark.slow
def test_texts_of_which_no_token_is_known(run, tuned):
    (tuned / "other.txt").write_text("ein Film\nzwei Filme\n" * 50)
    ran = run("acquire", "tuned", "other.txt", 3)
    assert ran.code == 2
    assert "knows no token of the 100 looked at, such as 'ein Film'" in ran.err
    (tuned / "some.txt").write_text("ein Film\nzwei Filme\nfilm\n" * 9)
    ran = run("acquire", "tuned", "some.txt", 3)
    assert ran.code == 0
    assert "warning: of 45 tokens of the first texts 36 are unknown" in ran.err
    assert "unknown" not in run("acquire", "tuned", "pool.txt", 3).err


@pytest.mark.slow
def test_more_tokens_than_the_model_knows(run, tuned):
    larger = tokenizer()
    larger.add_tokens(["wonderful"])
    larger.save_pretrained(tuned / "larger")
    ran = run("acquire", "tuned", "pool.txt", 3, "--tokenizer", "larger")
    assert ran.code == 0
    assert "has 17 tokens, the model knows 16: is it the model's own?" in ran.err
    (tuned / "late.txt").write_text("\n".join([*TEXTS, "a wonderful film"]))
    ran = run("acquire", "tuned", "late.txt", 3, "--tokenizer", "larger")
    assert ran.code == 2
    assert "It makes the token 16 of 'a wonderful film'; the model knows 16" in ran.err


@pytest.fixture
def silent():
    """An address where something listens and never answers, as behind a firewall."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_who_answers_and_who_does_not(silent, monkeypatch):
    monkeypatch.setattr(_hub, "_SECONDS", 0.3)
    begun = time.monotonic()
    assert not _hub.reachable(silent)
    assert not _hub.reachable("http://127.0.0.1:9")
    assert time.monotonic() - begun < 5
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert _hub.reachable(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, told",
    [
        (("hf:no/such", "pool.txt", 3), "`MODEL` must be a folder that `save_pretrained` wrote"),
        (("tuned", "pool.txt", 3, "--tokenizer", "tuend"), "`--tokenizer` must be a folder"),
    ],
)
def test_a_name_without_a_network_is_told_at_once(run, tuned, silent, monkeypatch, arguments, told):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", silent)
    monkeypatch.setattr(_hub, "_SECONDS", 0.3)
    begun = time.monotonic()
    ran = run("acquire", *arguments)
    assert time.monotonic() - begun < 12
    assert ran.code == 2
    assert told in ran.err
    assert "nothing of that name was downloaded before, and http" in ran.err
    assert "does not answer" in ran.err
