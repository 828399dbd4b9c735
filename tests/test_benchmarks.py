"""Benchmarks start, and the comparison with peers counts and reports as it says."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from tests.clones import ROOT, run

PEERS = ROOT / "benchmarks/peers"
SCRIPTS = sorted(PEERS.glob("*_peer.py"))
METADATA = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")  # as PEP 723 defines it
COMMANDS = [*sorted((ROOT / "benchmarks").glob("*.py")), PEERS / "compare.py"]


@pytest.mark.slow
@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: path.stem)
def test_help(script: Path) -> None:
    assert "usage:" in run(ROOT, "python", str(script), "--help").stdout


@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: path.stem)
def test_it_says_how_to_run_it(script: Path) -> None:
    described = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    assert f"python {script.relative_to(ROOT)}" in described


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_peer_has_an_environment_of_its_own(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    described = METADATA.search(text)
    assert described is not None
    metadata = tomllib.loads("".join(line[2:] for line in described["content"].splitlines(keepends=True)))
    assert any(one.startswith("torch>=") for one in metadata["dependencies"])
    assert metadata["tool"]["uv"]["exclude-newer"]
    assert "from pipeline" not in text


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PEERS)
    for name in ("photos", "sides", "peer_report"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("peers")
def test_a_sample_keeps_the_classes_shares_and_the_other_splits() -> None:
    from photos import chosen

    splits = ["train"] * 100 + ["val"] * 10 + ["test"] * 10
    classes = [["cat", "dog", "dog", "dog"][number % 4] for number in range(120)]
    manifest = pd.DataFrame({"id": [f"{number:03d}" for number in range(120)], "class": classes, "split": splits})
    fewer = chosen(manifest, 20, seed=0)
    kept = fewer[fewer["split"] == "train"]
    assert kept["class"].value_counts().to_dict() == {"dog": 15, "cat": 5}
    assert (fewer["split"] == "val").sum() == (fewer["split"] == "test").sum() == 10
    assert chosen(manifest, 20, seed=0).equals(fewer)
    assert not chosen(manifest, 20, seed=1).equals(fewer)
    assert chosen(manifest, 100, seed=0).equals(manifest)


@pytest.mark.usefixtures("peers")
def test_ratios_are_of_the_same_repeat() -> None:
    from peer_report import summarise
    from sides import OURS

    def of(frozen: float, finetuned: float, correct: int) -> dict[str, object]:
        common = {"photos": 100, "correct": correct, "n": 50}
        stages = {"frozen": {"seconds": frozen, **common}, "finetuned": {"seconds": finetuned, **common}}
        return {"stages": stages, "peak_memory_mb": 1000.0, "settings": {}, "versions": {}}

    # A machine twice as slow in the second repeat slows both, and leaves the ratio as it is.
    results = {OURS: [of(1, 4, 50), of(2, 8, 50)], "peer": [of(10, 20, 40), of(20, 40, 45)]}
    peer = summarise("peer", results)
    assert peer.ratio == {"frozen": 10, "finetuned": 5}
    assert peer.total_ratio == 6
    assert peer.accuracy["frozen"][0] == pytest.approx(0.85)
    low, high = peer.accuracy["frozen"][1:]
    assert low < 0.85 < high
