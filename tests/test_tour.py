"""examples/tour.ipynb runs from top to bottom in a clone, and what it shows is kept in it; the other example is importable."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.clones import ROOT, clone, run

TOUR = "examples/tour.ipynb"
LONGEST = 900  # seconds, on a machine that is busy with other tests


def cells(folder: Path) -> list[dict[str, Any]]:
    notebook = json.loads((folder / TOUR).read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def shown(cell: dict[str, Any], kind: str) -> list[str]:
    outputs = [output for output in cell["outputs"] if kind in output.get("data", output)]
    return ["".join(output.get("data", output)[kind]) for output in outputs]


@pytest.mark.slow
@pytest.mark.timeout(LONGEST + 60)
def test_the_tour_runs_and_shows_what_is_kept(tmp_path: Path) -> None:
    folder = clone(tmp_path / "clone")
    nameless = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}  # as on Colab, Git knows nobody
    run(folder, "jupyter-execute", "--inplace", TOUR, longest=LONGEST, **nameless)
    kept = cells(ROOT)
    assert [cell["execution_count"] for cell in kept] == [*range(1, len(kept) + 1)]
    for before, after in zip(kept, cells(folder), strict=True):
        assert before["source"] == after["source"]
        for kind in ("image/jpeg", "image/png"):
            assert len(shown(before, kind)) == len(shown(after, kind))
        told = "\n".join(shown(after, "text"))
        assert bool(told) == bool(shown(before, "text"))
        assert not re.search(r"^(error|ERROR):|Traceback|not found", told, re.MULTILINE)
    text = "\n".join(told for cell in cells(folder) for told in shown(cell, "text"))
    assert text.count("finetuned: accuracy") == 3
    assert "features each; 0 could not be read" in text
    assert sum(len(shown(cell, "image/jpeg")) for cell in kept) == 4


def test_a_process_that_decodes_photos_does_not_begin_the_whole_job_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where there are no photos
    runpy.run_path(str(ROOT / "examples/whole_job.py"), run_name="__mp_main__")  # as multiprocessing does
