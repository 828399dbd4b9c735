"""Photos damaged at random, by the thousand, through the real audit: each costs one row, and none costs more.

uv run python -m tests.preprocess.mutate --count 100000

A mutation is a photo in one of ten formats with bytes changed, put in, taken out or repeated, or with its end cut off. Every
one must come out as a kept row whose pixels are those that Pillow alone decodes and whose stored photo opens, or as a refused
row with Pillow's reason; no audit may crash or hang. The same seed makes the same mutations.
"""

import argparse
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.cores import usable_cores
from pipeline.preprocess import decode as decode_module
from pipeline.preprocess.audit import audit
from pipeline.preprocess.decode import Decoded, Refused, decode
from pipeline.preprocess.photo import pixel_hash
from tests.preprocess.test_decode import SAMPLES

BATCH = 5_000  # files on the disk at a time
STORED_SIZE = 20  # below the samples' size, so that they are shrunk and encoded again


def mutation(number: int, seed: int) -> bytes:
    """The bytes of one mutation."""
    rng = np.random.default_rng([seed, number])
    data = bytearray(SAMPLES[sorted(SAMPLES)[number % len(SAMPLES)]])
    for _ in range(rng.integers(1, 6)):
        place, length = int(rng.integers(0, len(data) + 1)), int(rng.integers(1, 13))
        match rng.choice(["change", "change", "insert", "remove", "repeat", "cut"]):
            case "change":
                data[place : place + 1] = rng.bytes(1) if place < len(data) else b""
            case "insert":
                data[place:place] = rng.bytes(length)
            case "remove":
                del data[place : place + length]
            case "repeat":
                data[place:place] = data[place : place + length * 8]
            case "cut":
                del data[place:]
    return bytes(data)


def audit_mutations(count: int, seed: int, workers: int) -> Counter[str]:
    """Audit `count` mutations and check every row; how many there were of each status and reason.

    Raises:
        AssertionError: a row is missing or says what is not so.
    """
    found: Counter[str] = Counter()
    for start in range(0, count, BATCH):
        with tempfile.TemporaryDirectory() as temporary:
            raw, store = Path(temporary, "raw"), Path(temporary, "store")
            for folder in ("Cat", "Dog"):  # a class needs a photo
                (raw / "PetImages" / folder).mkdir(parents=True)
                (raw / "PetImages" / folder / "whole.jpg").write_bytes(SAMPLES["JPEG"])
            numbers = range(start, min(start + BATCH, count))
            for number in numbers:
                path = raw / "PetImages" / ("Cat", "Dog")[number // len(SAMPLES) % 2] / f"{number}.jpg"
                path.write_bytes(mutation(number, seed))
            manifest = audit(raw, store, stored_size=STORED_SIZE, workers=workers)
            assert len(manifest) == len(numbers) + 2, f"{len(manifest)} rows of {len(numbers) + 2} files"
            for row in manifest[~manifest["id"].str.endswith(".whole")].itertuples():
                check_row(row, raw, store)
                found[row.status if row.status != "refused" else f"refused: {row.reason.split(':')[0]}"] += 1
    return found


def decoded_by_pillow(data: bytes) -> Decoded:
    """What decoding gives where no file is handed to OpenCV."""
    with patch.object(decode_module, "_ordinary_jpeg", lambda data, image: None):
        return decode(data)


def check_row(row: pd.Series, raw: Path, store: Path) -> None:
    """Compare one row of the audit with what Pillow makes of its file."""
    stored = store / row[3] / f"{row.id}.jpg"
    try:
        expected = decoded_by_pillow((raw / row.path).read_bytes())
        by_pillow = "; ".join(expected.notes), pixel_hash(expected.pixels)
    except Refused as refusal:
        by_pillow = str(refusal), ""
    found = row.reason, row.pixel_hash
    assert found == by_pillow, f"{row.path}: {found}, where Pillow alone gives {by_pillow}"
    if row.status == "refused":
        assert re.fullmatch(r"[ -~]{5,}", row.reason), f"{row.path}: {row.reason!r} is no reason"
        assert not stored.exists(), f"{row.path} is refused and stored"
        return
    assert row.status in ("kept", "repaired"), f"{row.path}: {row.status}"
    with Image.open(stored) as image:
        image.load()
        assert image.size == (row.stored_width, row.stored_height), f"{row.path}: stored as {image.size}"


def main() -> None:
    """Audit as many mutations as asked for and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    found = audit_mutations(arguments.count, arguments.seed, usable_cores())
    for outcome, number in found.most_common():
        print(f"{number:8,}  {outcome}")
    print(f"{found.total():8,}  mutations, a row each, in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
