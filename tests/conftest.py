"""What tests of several parts start from."""

import pytest


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies, whichever this machine uses."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
