"""A campaign's file: lines cut off, several processes, kills."""

import json
import signal
import subprocess

import pytest

from tests.support import warm
from tests.support.campaigns import KEYS, ask, campaign, lines


def asked(keys, records):
    event = {"event": "ask", "batch": 9, "keys": keys, "records": records}
    return json.dumps(event | {"predicted": {}, "samples": 3}).encode()


class TestDamage:
    def told(self, folder):
        made = campaign(folder)
        batch = ask(made)
        made.tell(batch, {batch.keys[0]: "one"})
        made.tell(batch, {batch.keys[1]: "two"})
        return batch

    @pytest.mark.parametrize("cut", [1, 2, 10, 40])
    def test_a_torn_last_line_is_dropped_and_told(self, tmp_path, cut):
        batch = self.told(tmp_path)
        path = tmp_path / "campaign.jsonl"
        whole = lines(tmp_path)
        path.write_bytes(whole[:-cut])
        if cut == 1:  # the line is whole, but for its end
            made = campaign(tmp_path)
            assert len(made.labelled) == 2
        else:
            with pytest.warns(UserWarning, match="was cut off"):
                made = campaign(tmp_path)
            assert made.labelled == {batch.keys[0]: "one"}
        made.tell(batch, {batch.keys[1]: "two", batch.keys[2]: "three"})
        again = campaign(tmp_path)  # and all is well
        assert again.labelled == dict(zip(batch.keys, ("one", "two", "three"), strict=False))
        assert all(json.loads(line) for line in lines(tmp_path).splitlines())

    def test_every_cut_leaves_what_was_before_it(self, tmp_path):
        self.told(tmp_path)
        whole = lines(tmp_path)
        ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
        for cut in range(ends[0], len(whole), 7):
            (tmp_path / "campaign.jsonl").write_bytes(whole[:cut])
            kept = sum(end <= cut + 1 for end in ends)
            torn = cut not in ends and cut + 1 not in ends
            if torn:
                with pytest.warns(UserWarning, match="was cut off"):
                    made = campaign(tmp_path)
            else:
                made = campaign(tmp_path)
            assert len(made.labelled) == kept - 1

    def test_a_line_damaged_before_the_last_is_an_error(self, tmp_path):
        self.told(tmp_path)
        first, second, third = lines(tmp_path).splitlines()
        (tmp_path / "campaign.jsonl").write_bytes(b"\n".join([first, second[:-9], third, b""]))
        with pytest.raises(ValueError, match=r"Line 2 of .* is damaged"):
            campaign(tmp_path)

    @pytest.mark.parametrize("damage", [
        lambda line: line.replace(b'"batch"', b'"botch"'),
        lambda line: line.replace(b'"answers": {', b'"answers": 3, "rest": {'),
        lambda line: b'{"event": "ask", "batch": 1}',
        lambda line: b'{"event": "release"}',
        lambda line: b'{"event": 7}',
        lambda line: b"[" * 100_000,
        lambda line: asked([["a"]], [{}]),
        lambda line: asked([3], [{}]),
        lambda line: asked(["a", "b"], [{}]),
        lambda line: asked(["a"], [3]),
    ], ids=[
        "no batch", "no answers", "half asked", "released none", "no name", "deep", "keys in lists",
        "numbers as keys", "too few records", "no records",
    ])  # fmt: skip
    def test_a_line_without_its_fields_is_damaged(self, damage, tmp_path):
        self.told(tmp_path)
        first, second, third = lines(tmp_path).splitlines()
        (tmp_path / "campaign.jsonl").write_bytes(b"\n".join([first, damage(second), third, b""]))
        with pytest.raises(ValueError, match=r"Line 2 of .* is damaged"):
            campaign(tmp_path)

    def test_a_batch_gets_no_id_of_one_whose_line_was_deleted(self, tmp_path):
        self.told(tmp_path)
        before = campaign(tmp_path).labelled
        kept = lines(tmp_path).splitlines(keepends=True)[1:]  # as the message advises
        release = b'{"event": "release", "batch": 1}\n'
        (tmp_path / "campaign.jsonl").write_bytes(b"".join([*kept, release]))
        made = campaign(tmp_path)
        assert made.labelled == before
        assert ask(made).id == 2


WORKER = """
import sys, time, torch, warnings
from torch import nn
from torch.utils.data import TensorDataset
from fastgradnorm.active import Campaign

warnings.simplefilter("ignore")
folder, number = sys.argv[1], int(sys.argv[2])
x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
torch.manual_seed(0)
model = nn.Linear(6, 3).eval()
made = Campaign(folder, TensorDataset(x), lambda i: f"photo {i}.png")
end = time.monotonic() + 60
while made.unlabelled and time.monotonic() < end:
    try:
        batch = made.ask(5, model, progress=False)
    except ValueError:  # the other has taken the last answers in between
        continue
    print(batch.id, *batch.keys, sep="\\t", flush=True)
    for key in batch.keys[number::2]:
        made.tell(batch, {key: f"{number} {key}"})
    time.sleep(0.01)
"""


def worker(folder, number):
    return warm.Started(WORKER, folder, number)


@pytest.mark.slow
def test_two_processes_at_once(tmp_path):
    """Each answers every other key: one alone would wait for ever."""
    with worker(tmp_path, 0) as first, worker(tmp_path, 1) as second:
        first.wait()
        second.wait()
        outs = [first.stdout, second.stdout]
    made = campaign(tmp_path)
    events = [json.loads(line) for line in lines(tmp_path).splitlines()]
    asked = [event for event in events if event["event"] == "ask"]
    keys = [key for event in asked for key in event["keys"]]
    assert len(keys) == len({*keys})
    assert [event["batch"] for event in asked] == list(range(1, len(asked) + 1))
    shown = {tuple(line.split("\t")) for out in outs for line in out.splitlines()}
    assert shown <= {(str(e["batch"]), *e["keys"]) for e in asked}
    assert sorted(made.labelled) == sorted(keys) == sorted(KEYS)
    number = {key: i % 2 for event in asked for i, key in enumerate(event["keys"])}
    assert made.labelled == {key: f"{number[key]} {key}" for key in KEYS}


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost(tmp_path):
    for delay in range(4):
        with worker(tmp_path, 0) as process:
            process.wait_for_a_line()  # it has asked
            try:
                process.wait(timeout=0.01 * delay)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            process.wait()
        made = campaign(tmp_path)
        batch = ask(made)
        made.tell(batch, dict.fromkeys(batch.waiting, "mine"))
        kept = made.labelled
        assert campaign(tmp_path).labelled == kept
    events = [json.loads(line) for line in lines(tmp_path).splitlines()]
    keys = [key for event in events if event["event"] == "ask" for key in event["keys"]]
    assert len(keys) == len({*keys})
