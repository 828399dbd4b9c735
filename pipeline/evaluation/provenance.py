"""What a result was made from, in words, for the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.checkpoint import MODEL_FILE, CheckpointInfo, library_versions
from pipeline.data.manifest import fingerprint
from pipeline.runtime import source_revision

Made = dict[str, Sequence[tuple[str, str]]]


def made_from(
    manifest: pd.DataFrame,
    infos: Mapping[str, CheckpointInfo],
    facts: Mapping[str, Mapping[str, Any]],
    *,
    num_parameters: int,
    machine: str,
) -> Made:
    """Heading -> (name, value) pairs.

    Args:
        manifest: of all photos.
        infos: checkpoint -> its description, "finetuned" among them.
        facts: stage -> what it wrote into its metrics, `seconds` among them; of the download also `archive_sha256`.
        num_parameters: of the network.
        machine: what evaluated it.
    """
    tuned = infos["finetuned"]
    counts = manifest["split"].value_counts()
    size = " × ".join(map(str, tuned.preprocessing.input_size[1:]))
    return {
        "Photos": [
            ("archive", facts["download"].get("archive_sha256") or "none: drawn, or from a folder"),
            ("kept", ", ".join(f"{counts.get(split, 0):,} {split}" for split in ("train", "val", "test"))),
            ("refused", f"{counts.get('', 0):,} files"),
            ("test photos", fingerprint(manifest, "test")),
        ],
        "Network": [
            ("backbone", f"{tuned.backbone.name}, {num_parameters / 1e6:,.2f} million parameters"),
            ("weights", tuned.backbone.weights),
            ("sha256", tuned.backbone.weights_sha256 or "none: random"),
            ("input", f"{size} px, {tuned.preprocessing.interpolation}"),
            ("kept", f"{tuned.metrics['share']:.0%} of epoch {tuned.epoch}"),
        ],
        "Checkpoints": [(name, info.files[MODEL_FILE]) for name, info in infos.items()],
        "Time": [(stage, f"{numbers['seconds']:,.1f} s") for stage, numbers in facts.items()],
        "Machine": [("evaluated on", machine), ("commit", source_revision() or "not under Git")],
        "Versions": list(library_versions().items()),
    }
