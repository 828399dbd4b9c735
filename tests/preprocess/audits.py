"""What tests of the audit start from: photos, a raw folder with good and bad files in it, and an audit of it."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.preprocess.audit import audit

# Run with `python -c`: the arguments are the raw folder and the store.
AUDIT = """
import sys
from pathlib import Path
from pipeline.preprocess.audit import audit
audit(Path(sys.argv[1]), Path(sys.argv[2]), stored_size=48, workers=2)
"""


def picture(width: int, height: int, seed: int) -> Image.Image:
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image, format_name: str = "JPEG", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format_name, **options)
    return path


def make_raw(parent: Path) -> Path:
    """A raw folder with 40 photos of either class, and what else lies about in such folders."""
    top = parent / "raw" / "PetImages"
    for index in range(40):
        save(top / "Cat" / f"{index}.jpg", picture(64 + index, 60, index))
        save(top / "Dog" / f"{index}.jpg", picture(60, 64 + index, 100 + index))
    (top / "Cat" / "666.jpg").write_bytes(b"")
    (top / "Dog" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(2000))
    cut = (top / "Dog" / "1.jpg").read_bytes()
    (top / "Dog" / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    save(top / "Dog" / "ink.jpg", picture(70, 70, 7).convert("CMYK"))
    return parent / "raw"


def run(raw: Path, store: Path, workers: int = 1, stored_size: int = 48) -> pd.DataFrame:
    return audit(raw, store, stored_size=stored_size, workers=workers)


def contents(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*.jpg")}
