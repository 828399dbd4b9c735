"""What is said of progress."""

import pytest

from pipeline.progress import progress


@pytest.mark.parametrize(("done", "said"), [(100, "features: 100 of 100 photos, all done before"), (40, "100 of 100 photos, ")])
def test_no_rate_is_told_of_work_that_an_earlier_run_did(capsys: pytest.CaptureFixture[str], done: int, said: str) -> None:
    with progress("features", total=100, done=done) as advance:
        if done < 100:
            advance(100 - done)
    line = capsys.readouterr().out
    assert said in line
    assert ("photos/s" in line) == (done < 100)
    assert ", 0 photos/s" not in line
