"""The drawn photos: their files, their defects, the same pixels everywhere, and that colour and brightness are not enough."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.thumbnail_baseline import MODELS, cross_validated_accuracy, read_thumbnails
from pipeline.download.drawn_photo import DEFECTS, FOLDERS, _pool, defects, draw_petimages, draw_photo, photo_file, random_of
from tests.download.packing import files_below
from tests.refusals import refused

SEED = 3
# SHA-256 of the photos below; a release of Pillow that draws in another way changes it.
PIXELS = "7c42c989baf0ca446498fcba57eb172541cabc405edc52501b0f9167ccb0fdd0"
HASHES = f"""
import hashlib, json, sys, pipeline.download.sources, pipeline.download.unpack
from random import Random
from pipeline.download.drawn_photo import FOLDERS, photo_file
from pipeline.download.drawn_photo import OTHER_KINDS, draw_photo
pixels, files = hashlib.sha256(), hashlib.sha256()
for number, kind in enumerate(("cat", "dog") * 12 + OTHER_KINDS):
    pixels.update(draw_photo(kind, Random(number)).tobytes())
for folder in FOLDERS:
    files.update(photo_file(folder, 50, {SEED}))
print(json.dumps([pixels.hexdigest(), files.hexdigest(), [name for name in ("torch", "numpy", "cv2") if name in sys.modules]]))
"""


def test_ctrl_c_is_raised_once_the_workers_are_gone() -> None:
    """Amid the executor's own code it would leave a lock held, and its end would wait for ever."""

    def work() -> None:
        with _pool(2) as pool:
            os.kill(os.getpid(), signal.SIGINT)
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
            assert len(multiprocessing.active_children()) > len(others)

    others = multiprocessing.active_children()  # of tests before, which may still be ending
    with pytest.raises(KeyboardInterrupt):
        work()
    assert set(multiprocessing.active_children()) <= set(others)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety files, enough to hold every defect of both classes."""
    root = tmp_path_factory.mktemp("drawn")
    draw_petimages(root, num_photos=90, seed=SEED, workers=2)
    return root / "PetImages"


def test_layout_and_sizes(drawn: Path) -> None:
    expected = {f"{folder}/{index}.jpg" for folder in FOLDERS for index in range(45)}
    assert set(files_below(drawn)) == expected | {f"{folder}/Thumbs.db" for folder in FOLDERS}
    for folder in FOLDERS:
        assert sorted(defects(folder, SEED).values()) == sorted(DEFECTS)
        for index in set(range(45)) - set(defects(folder, SEED)):
            with Image.open(drawn / folder / f"{index}.jpg") as photo:
                photo.load()
                assert (photo.format, photo.mode) == ("JPEG", "RGB")
                assert 180 <= min(photo.size) <= max(photo.size) <= 364


def test_the_number_of_workers_and_of_photos_does_not_matter(drawn: Path, tmp_path: Path) -> None:
    draw_petimages(tmp_path, num_photos=31, seed=SEED, workers=1)
    fewer, all_files = files_below(tmp_path / "PetImages"), files_below(drawn)
    assert len(fewer) == 31 + len(FOLDERS)
    assert all(all_files[name] == content for name, content in fewer.items())


def test_a_file_depends_on_seed_class_and_index() -> None:
    files = [photo_file(*of) for of in (("Cat", 50, 0), ("Cat", 51, 0), ("Dog", 50, 0), ("Cat", 50, 1), ("Cat", 50, 0))]
    assert len(set(files)) == 4
    assert files[0] == files[4]


@pytest.mark.parametrize(
    "environment",
    [
        "OPENBLAS_CORETYPE=Haswell ONEDNN_MAX_CPU_ISA=AVX2 NPY_DISABLE_CPU_FEATURES=AVX512F",
        "OPENBLAS_CORETYPE=Prescott ONEDNN_MAX_CPU_ISA=SSE41 NPY_DISABLE_CPU_FEATURES=AVX2,FMA3 JSIMD_FORCESSE2=1",
        "OPENBLAS_CORETYPE=Zen GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F PYTHONHASHSEED=7",
    ],
)
def test_the_same_pixels_and_files_on_every_processor(environment: str) -> None:
    """And nothing is imported that computes in one way on one processor and in another way on another."""
    variables = os.environ | dict(setting.split("=", 1) for setting in environment.split())
    done = subprocess.run([sys.executable, "-c", HASHES], env=variables, capture_output=True, text=True, check=True)
    files = hashlib.sha256(b"".join(photo_file(folder, 50, SEED) for folder in FOLDERS)).hexdigest()
    assert json.loads(done.stdout) == [PIXELS, files, []]


@pytest.mark.parametrize("folder", FOLDERS)
def test_defects(drawn: Path, folder: str) -> None:
    paths = {defect: drawn / folder / f"{index}.jpg" for index, defect in defects(folder, SEED).items()}
    assert paths["empty"].stat().st_size == 0
    with Image.open(paths["truncated"]) as photo, pytest.raises(OSError, match="truncated"):
        photo.load()
    for defect, mode in (("cmyk", "CMYK"), ("grey", "L")):
        with Image.open(paths[defect]) as photo:
            assert photo.mode == mode
    for defect in ("turned 90", "turned 180"):
        upright = np.asarray(draw_photo(folder.lower(), random_of(folder, paths[defect].stem, SEED)))[:, :, ::-1]
        turned = cv2.imread(str(paths[defect]), cv2.IMREAD_COLOR)  # which follows the orientation
        assert turned is not None
        assert np.abs(turned.astype(float) - upright).mean() < 10
    files = files_below(drawn / folder).values()
    assert len(files) - len(set(files)) == 1  # the duplicate


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    refused("taken cannot be written: Not a directory", draw_petimages, tmp_path / "taken", num_photos=4, seed=0, workers=1)


@pytest.mark.slow  # the pixels are held by the test of their SHA-256
def test_thumbnails_do_not_give_the_class_away(tmp_path: Path) -> None:
    """Colour, brightness and coarse shape are not enough: the strongest linear model on thumbnails stays below 75%."""
    draw_petimages(tmp_path, num_photos=1210, seed=0)
    features, labels = read_thumbnails(tmp_path)
    assert len(labels) >= 1200
    assert max(cross_validated_accuracy(name, features, labels) for name in MODELS) < 0.75
