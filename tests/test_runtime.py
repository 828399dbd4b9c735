"""What the runtime asks of the machine, also of an older one."""

from types import SimpleNamespace

import pytest

from pipeline import runtime


def test_an_older_c_library_gets_the_largest_threshold_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[int, int] = {}

    def mallopt(name: int, value: int) -> int:
        refused = name == -3 and value > 2**25
        taken.update({} if refused else {name: value})
        return int(not refused)

    monkeypatch.setattr(runtime.platform, "libc_ver", lambda: ("glibc", "2.31"))
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    runtime._keep_freed_memory()
    assert taken[-3] == 2**25
