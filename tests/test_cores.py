"""One answer to how many processes work: the cores that this process may use."""

import math
import os
from pathlib import Path

import pytest

from pipeline.cores import cpu_quota, usable_cores, worker_count


def test_a_number_is_taken_as_it_is_and_processes_that_train_together_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = usable_cores()
    assert [worker_count(setting) for setting in (0, 7, "auto")] == [0, 7, alone]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert [worker_count(setting) for setting in (0, 7, "auto")] == [0, 7, max(1, alone // 2)]


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),  # docker run --cpus 1.5
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),  # of a parent
        ("0::/docker/abc\n", {"cpu.max": "200000 100000"}, 2.0),  # its own group lies at the top in the container
        ("4:memory:/x\n1:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "100000"}, 2.5),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("0::/\n", {}, math.inf),
    ],
)
def test_the_quota_of_a_container_counts(tmp_path: Path, groups: str, files: dict[str, str], quota: float) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpu_quota(tmp_path / "cgroup", tmp_path) == quota


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.5, 2), (math.inf, 64)])
def test_part_of_a_core_is_one(monkeypatch: pytest.MonkeyPatch, quota: float, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    monkeypatch.setattr("pipeline.cores.cpu_quota", lambda: quota)
    assert usable_cores() == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_cores_that_are_kept_from_this_process_do_not_count() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
