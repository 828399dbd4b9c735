"""Stage 0, inputs: hashes of the files of one's own that params.yaml names, so that DVC keys stages by what they hold.

It is `always_changed`, so DVC runs it at every `dvc repro`, in a moment: a file of the same size and modification time is not
read again. Out come data/inputs/photos.json (the archive or folder of `download.source`) and data/inputs/network.json (the
weights file, the JSON of the same name and the Python module of `backbone`).
"""

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path

from pipeline.download.extract import reading
from pipeline.download.listing import walk
from pipeline.errors import PipelineError
from pipeline.files import read_json, sha256_of, write_json
from pipeline.params import Params
from pipeline.paths import HASHES, INPUTS, user_path


def run(params: Params) -> None:
    """Write both files; what is no file of this machine (drawn, an address, package) is not in them."""
    try:
        known = read_json(HASHES)
    except PipelineError:
        known = {}  # a first run
    source = user_path(params.download.source)
    write_json(INPUTS / "photos.json", {"source": _hash(source, known)} if source.exists() else {})
    parts = enumerate(params.backbone.parts)  # one name may be there twice, with other weights
    networks = {f"{number} {one.name}": _files_of(user_path(one.weights), one.name, known) for number, one in parts}
    write_json(INPUTS / "network.json", networks)
    write_json(HASHES, known)


def _files_of(weights: Path, name: str, known: dict[str, str]) -> dict[str, str]:
    """Hashes of a backbone's weights file, of the JSON beside it and of a network of one's own, as far as there are such."""
    files = {"weights": weights, "description": weights.with_suffix(".json"), "module": _module_file(name)}
    return {name: _hash(file, known) for name, file in files.items() if file and file.is_file()}


def _module_file(name: str) -> Path | None:
    """The source of a network of one's own, my_package.my_module:build."""
    if ":" not in name:
        return None
    sys.path.insert(0, os.getcwd())
    try:
        spec = importlib.util.find_spec(name.partition(":")[0])
    except ImportError:
        return None  # said by the stage that needs it
    return Path(spec.origin) if spec and spec.origin else None


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
