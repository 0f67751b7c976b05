"""A campaign where something is wrong with the disk or the clock."""

import errno
import resource
from pathlib import Path

import pytest

from fastgradnorm.active.campaign import _journal
from tests.support.campaigns import KEYS, ask, campaign, lines


@pytest.fixture
def full():
    """Makes files end after so many bytes, as on a full disk: what is written is cut off there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestDisk:
    @pytest.mark.parametrize("room", [0, 1, 20])
    def test_a_full_one_takes_nothing_of_a_line(self, tmp_path, full, room):
        made = campaign(tmp_path)
        batch = ask(made)
        made.tell(batch, {batch.keys[0]: "kept"})
        before = lines(tmp_path)
        full(len(before) + room)
        with pytest.raises(OSError, match=r"where there is room.*nothing was taken"):
            made.tell(batch, {batch.keys[1]: "lost", batch.keys[0]: "too"})
        assert lines(tmp_path) == before
        assert made.labelled == {batch.keys[0]: "kept"}
        full(resource.RLIM_INFINITY)
        assert made.tell(batch, {batch.keys[1]: "again"}) == 1
        assert campaign(tmp_path).labelled == {batch.keys[0]: "kept", batch.keys[1]: "again"}

    def test_a_full_one_asks_nothing(self, tmp_path, full):
        made = campaign(tmp_path)
        full(100)
        with pytest.raises(OSError, match="room"):
            ask(made)
        full(resource.RLIM_INFINITY)
        assert made.status().rounds == 0
        assert ask(made).id == 1

    def test_a_disk_that_fails_to_keep(self, tmp_path, monkeypatch):
        made = campaign(tmp_path)
        batch = ask(made)
        before = lines(tmp_path)

        def fails(number):
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(_journal.os, "fsync", fails)
            with pytest.raises(OSError, match=r"nothing was taken\. Input/output error") as raised:
                made.tell(batch, {batch.keys[1]: "lost"})
        assert raised.value.errno == errno.EIO
        assert lines(tmp_path) == before

    def test_what_is_no_folder(self, tmp_path):
        (tmp_path / "file").write_text("a")
        for place in (tmp_path / "file", tmp_path / "file" / "inside", Path("/proc/nothing")):
            with pytest.raises(OSError, match="`folder` must be a folder, or a place for one"):
                ask(campaign(place))
        (tmp_path / "a" / "campaign.jsonl").mkdir(parents=True)
        with pytest.raises(OSError, match="`folder` must be one whose files can be read"):
            campaign(tmp_path / "a")

    def test_one_that_can_only_be_read(self, tmp_path, monkeypatch):
        batch = ask(campaign(tmp_path))
        opened = _journal.io.FileIO

        def reads_only(path, mode):
            if mode != "rb":
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            return opened(path, mode)

        monkeypatch.setattr(_journal.io, "FileIO", reads_only)
        made = campaign(tmp_path)
        assert made.status().waiting == batch.keys
        assert made.unlabelled == KEYS
        for call in (lambda: ask(made), lambda: made.tell(batch, {batch.keys[0]: 1})):
            with pytest.raises(OSError, match=r"one that can be written\. Read-only"):
                call()

    def test_one_without_locks(self, tmp_path, monkeypatch):
        def refuses(file, how):
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(_journal.fcntl, "flock", refuses)
        with pytest.raises(OSError, match="`folder` must be on a file system that can lock files"):
            ask(campaign(tmp_path))

    @pytest.mark.parametrize("end", [b"\0" * 90, b'{"event": "te', b"\xe2\x82", b"\n \r\n\n"])
    def test_what_a_power_cut_leaves(self, tmp_path, end):
        made = campaign(tmp_path)
        batch = ask(made)
        path = tmp_path / "campaign.jsonl"
        path.write_bytes(lines(tmp_path) + end)
        if end.strip():
            with pytest.warns(UserWarning, match=f"after {len(end)} bytes"):
                made = campaign(tmp_path)
        made.tell(batch, {batch.keys[0]: "ü"})
        assert campaign(tmp_path).labelled == {batch.keys[0]: "ü"}

    def test_lines_that_windows_ends(self, tmp_path):
        batch = ask(campaign(tmp_path))
        path = tmp_path / "campaign.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + lines(tmp_path).replace(b"\n", b"\r\n") + b"\r\n")
        assert campaign(tmp_path).status().waiting == batch.keys


@pytest.mark.slow
def test_a_clock_that_jumps(tmp_path, monkeypatch):
    """The order of lines counts, and not what the clock said."""
    made, seen = campaign(tmp_path), []
    for at in ("2050-01-01T00:00:00", "1970-01-01T00:00:00", "", "2026-11-26T00:00:00"):
        monkeypatch.setattr("fastgradnorm.active.campaign._campaign.now", lambda at=at: at)
        batch = ask(made)
        seen += batch.keys
        made.tell(batch, dict.fromkeys(batch.keys, "first"))
        made.tell(batch, {batch.keys[0]: f"corrected at {at}"})
        assert campaign(tmp_path).labelled[batch.keys[0]] == f"corrected at {at}"
    assert len(seen) == len({*seen}) == 20
