"""The curves of fine-tuning that `dvc plots show` draws: outputs of the stage, yet written while it trains.

    curves = Curves(Path("outputs/plots/training"), Path("outputs/plots/epochs.csv"))
    curves.step(20, loss=0.31, learning_rate=1e-3)
    curves.epochs(rows)
    curves.finish()

DVCLive writes the curves by step, in an output of the stage rather than in a folder of its own: so they belong to a revision,
`dvc plots diff` compares them between experiments, and `dvc checkout` brings them back. They are therefore written whatever
`runtime.trackers` says, and DVCLive is told to make no dvc.yaml, report or experiment beside those that DVC makes. DVC removes
outputs before it runs a stage, and a killed run has written points that its saved state does not know; so a run that goes on
writes its earlier points anew from that state instead of asking DVCLive to resume, and ends with the same files, byte for byte.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import write_csv


class Curves:
    """Opening it removes the curves that were there before.

    Args:
        folder: DVCLive's: plots/metrics/loss.tsv and learning_rate.tsv, a line a point, and metrics.json, the last values.
        epochs_file: a CSV with a line an epoch.
    """

    def __init__(self, folder: Path, epochs_file: Path) -> None:
        from dvclive import Live  # imports DVC, which takes a second

        self._live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None)
        self._epochs_file = epochs_file

    def step(self, step: int, *, loss: float, learning_rate: float) -> None:
        """Add a point after `step` steps."""
        self._live.step = step
        self._live.log_metric("loss", float(f"{loss:.6g}"))
        self._live.log_metric("learning_rate", float(f"{learning_rate:.6g}"))

    def epochs(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write all epochs so far, the frozen checkpoint's values beside each, to be drawn over one another."""
        frozen = {f"frozen_{name}": rows[0][name] for name in ("val_log_loss", "val_accuracy")}
        write_csv(self._epochs_file, [{**row, **frozen} for row in rows])
        for name in ("val_log_loss", "val_accuracy"):
            self._live.log_metric(name, float(f"{rows[-1][name]:.6g}"), plot=False)
        self._in_order()
        self._live.sync()

    def finish(self) -> None:
        """Write the last values."""
        self._in_order()
        self._live.end()

    def _in_order(self) -> None:
        """Last values by name: a run that goes on tells its steps before its epochs, and must write the same bytes."""
        self._live.summary = dict(sorted(self._live.summary.items()))
