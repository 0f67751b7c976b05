"""How much memory is free: of the machine, and within the limits of the groups a process is in."""

import pytest

from fastgradnorm._process.memory import (
    free_host_bytes,
    in_words,
)


class TestFreeHostMemory:
    @pytest.fixture
    def host(self, tmp_path):
        proc, groups = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 1000 kB\n")
        groups.mkdir()

        def write(group, **files):
            folder = groups / group
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (folder / name.replace("__", ".")).write_text(str(text))

        return proc, groups, write

    def test_of_the_machine(self, host):
        proc, groups, _ = host
        assert free_host_bytes(proc, groups) == 1000 * 1024

    def test_of_a_version_2_group_and_the_groups_around_it(self, host):
        proc, groups, write = host
        (proc / "self" / "cgroup").write_text("0::/a/b\n")
        stat = "anon 5\ninactive_file 700\n"
        write("a/b", memory__max="max", memory__current=10, memory__stat=stat)
        assert free_host_bytes(proc, groups) == 1000 * 1024
        write("a", memory__max=5000, memory__current=3000, memory__stat=stat)
        assert free_host_bytes(proc, groups) == 5000 - 3000 + 700
        write("a/b", memory__max=1000, memory__current=900, memory__stat=stat)
        assert free_host_bytes(proc, groups) == 800

    def test_of_a_version_1_group(self, host):
        proc, groups, write = host
        (proc / "self" / "cgroup").write_text("3:cpu:/\n4:memory,hugetlb:/job\n")
        write(
            "memory/job",
            memory__limit_in_bytes=4000,
            memory__usage_in_bytes=3500,
            memory__stat="total_inactive_file 100\n",
        )
        assert free_host_bytes(proc, groups) == 600

    def test_without_any_of_it(self, tmp_path):
        free = free_host_bytes(tmp_path / "no", tmp_path / "no")
        assert free is None or free > 0

    def test_in_words(self):
        assert [in_words(n) for n in (12, 3 << 20, 5 << 30)] == ["12 bytes", "3.0 MiB", "5.0 GiB"]
