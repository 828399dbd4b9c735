"""Stage 0, inputs: hashes of the files of one's own that params.yaml names, so that DVC keys stages by what they hold.

It is `always_changed`, so DVC runs it at every `dvc repro`, in a moment: a file of the same size and modification time is not
read again. Out come data/inputs/photos.json (the archive or folder of `download.source`) and data/inputs/network.json (the
weights file, the JSON of the same name and the Python sources of `backbone`). As the first stage it also refuses a source that
DVC would remove.
"""

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path

from pipeline.download.extract import reading
from pipeline.download.listing import walk
from pipeline.download.unpack import refuse_others
from pipeline.errors import PipelineError
from pipeline.files import read_json, sha256_of, sources_of, write_json
from pipeline.params import Params
from pipeline.paths import FINETUNED, FROZEN, HASHES, INPUTS, PROBE, PROCESSED, RAW, TRAINING_CURVES, user_path

REMOVED = (RAW, PROCESSED, FROZEN, PROBE, FINETUNED, TRAINING_CURVES)  # by DVC, before the stage that makes the folder runs


def run(params: Params) -> None:
    """Write both files; what is no file of this machine (drawn, an address, package) is not in them."""
    source = user_path(params.download.source)
    _refuse_removed(source)
    refuse_others(RAW)
    try:
        known = read_json(HASHES)
    except PipelineError:
        known = {}  # a first run
    write_json(INPUTS / "photos.json", {"source": _hash(source, known)} if source.exists() else {})
    parts = enumerate(params.backbone.parts)  # one name may be there twice, with other weights
    networks = {f"{number} {one.name}": _files_of(user_path(one.weights), one.name, known) for number, one in parts}
    write_json(INPUTS / "network.json", networks)
    write_json(HASHES, known)


def _refuse_removed(source: Path) -> None:
    """Refuse a source in an output, or around one: DVC removes outputs before a stage can read, or refuse, what they hold."""
    reads = source.resolve()
    for folder in REMOVED:
        output = folder.resolve()
        if reads.is_relative_to(output) or output.is_relative_to(reads):
            raise PipelineError(
                f"download.source = {source} overlaps with {folder}, which DVC removes before it makes it anew: move the "
                "photos to a folder of their own, such as ../my-photos, and set download.source to that."
            )


def _files_of(weights: Path, name: str, known: dict[str, str]) -> dict[str, str]:
    """Hashes of a backbone's weights file, of the JSON beside it and of a network of one's own, as far as there are such."""
    files = {"weights": weights, "description": weights.with_suffix(".json")}
    files |= {f"module {number}": file for number, file in enumerate(_sources(name))}
    return {kind: _hash(file, known) for kind, file in files.items() if file.is_file()}


def _sources(name: str) -> list[Path]:
    """The sources of a network of one's own, my_package.my_module:build; none of any other."""
    if ":" not in name:
        return []
    sys.path.insert(0, os.getcwd())
    try:
        spec = importlib.util.find_spec(name.partition(":")[0])
    except Exception:  # a package's __init__.py is run, and may raise anything
        return []  # said by the stage that needs it
    return sources_of(Path(spec.origin)) if spec and spec.origin else []


def _hash(path: Path, known: dict[str, str]) -> str:
    """SHA-256 of a file's bytes; of a folder, of the names, sizes and modification times in it."""
    with reading(path):
        if path.is_dir():
            found = sorted((str(file.relative_to(path)), *_stat(file)) for file, _ in walk(path) if file.is_file())
            return hashlib.sha256(json.dumps(found).encode(errors="surrogateescape")).hexdigest()
        key = json.dumps([str(path.resolve()), *_stat(path)])
        known[key] = known.get(key) or sha256_of(path)
        return known[key]


def _stat(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
