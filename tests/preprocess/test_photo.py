"""Stored photos: what is copied, what is shrunk, and that new photos are treated alike."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.preprocess import photo as photo_module
from pipeline.preprocess.decode import EXIF_ORIENTATION, decode
from pipeline.preprocess.photo import Task, as_stored, examine, pixel_hash, read_as_stored
from tests.preprocess.audits import encoded, exif, picture, save


def stored(tmp_path: Path, source: Path, stored_size: int) -> tuple[dict, Path]:
    target = tmp_path / "stored.jpg"
    row = examine(Task(source, str(target), "cat.0", source.name, "cat", source.stat().st_size, stored_size))
    return row, target


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("stored_size", [30, 31])
def test_a_small_jpeg_is_stored_byte_for_byte(tmp_path: Path, mode: str, stored_size: int) -> None:
    source = save(tmp_path / "0.jpg", picture(40, 30, 0).convert(mode), quality=70)
    row, target = stored(tmp_path, source, stored_size)
    assert target.read_bytes() == source.read_bytes()
    with Image.open(target) as image:
        assert pixel_hash(image.convert("RGB")) == row["pixel_hash"]


def test_a_small_photo_that_is_no_plain_jpeg_is_encoded_at_its_size(tmp_path: Path) -> None:
    source = save(tmp_path / "0.png", picture(40, 30, 0), "PNG")
    _, target = stored(tmp_path, source, 64)
    with Image.open(target) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (40, 30))
        assert image.layer[0][1:3] == (1, 1)  # colour is not subsampled
        difference = np.abs(np.asarray(image).astype(int) - np.asarray(picture(40, 30, 0)).astype(int))
    assert difference.mean() < 3


@pytest.mark.parametrize(("size", "expected"), [((97, 50), (47, 24)), ((50, 97), (24, 47)), ((1500, 30), (1200, 24))])
def test_a_large_photo_is_stored_with_the_shorter_side_asked_for(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    _, target = stored(tmp_path, save(tmp_path / "0.jpg", picture(*size, 0)), 24)
    with Image.open(target) as image:
        assert image.size == expected


def test_shrinking_does_not_alias(tmp_path: Path) -> None:
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], dtype=np.uint8), (400, 200)))
    _, target = stored(tmp_path, save(tmp_path / "0.png", stripes, "PNG"), 150)
    with Image.open(target) as image:
        assert np.asarray(image).std() < 3


def test_a_turned_photo_is_stored_upright(tmp_path: Path) -> None:
    row, target = stored(tmp_path, save(tmp_path / "0.jpg", picture(40, 30, 0), exif=exif(EXIF_ORIENTATION, 6)), 64)
    with Image.open(target) as image:
        assert image.size == (30, 40) == (row["width"], row["height"])
        assert EXIF_ORIENTATION not in image.getexif()


def test_a_photo_too_long_for_a_jpeg_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_module, "MAX_JPEG_SIDE", 69)
    row, target = stored(tmp_path, save(tmp_path / "0.png", Image.new("L", (70, 2)), "PNG"), 64)
    assert (row["status"], row["reason"]) == ("refused", "too long and thin to store")
    assert not target.exists()


@pytest.mark.parametrize("stored_size", [20, 64])
@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("GIF", "P")])
def test_a_new_photo_is_what_reading_the_stored_one_gives(tmp_path: Path, kind: str, mode: str, stored_size: int) -> None:
    source = save(tmp_path / "0", picture(40, 30, 0).convert(mode), kind)
    _, target = stored(tmp_path, source, stored_size)
    with Image.open(target) as image:
        expected = np.asarray(image.convert("RGB"))
    data = source.read_bytes()
    assert np.array_equal(np.asarray(read_as_stored(data, stored_size)), expected)
    if stored_size < 30:  # pixels without a file are encoded only where they are shrunk
        assert np.array_equal(np.asarray(as_stored(decode(data).image, stored_size)), expected)


def test_the_pixel_hash_knows_the_size() -> None:
    assert pixel_hash(Image.new("RGB", (4, 6))) != pixel_hash(Image.new("RGB", (6, 4)))


def test_warnings_become_notes(tmp_path: Path) -> None:
    maker = "a maker with a long name"
    data = encoded(picture(), exif=exif(0x010F, maker))
    (tmp_path / "0.jpg").write_bytes(data.replace((len(maker) + 1).to_bytes(4, "big"), b"\0\0\xff\xff", 1))
    row, _ = stored(tmp_path, tmp_path / "0.jpg", 64)
    assert row["status"] == "repaired"
    assert row["reason"].startswith("decoder warning: ")
