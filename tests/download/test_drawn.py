"""The drawn photos: their files, their defects, and that they cannot be told apart by colour and brightness."""

import sys
from pathlib import Path
from subprocess import run

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.thumbnail_baseline import MODELS, cross_validated_accuracy, read_thumbnails
from pipeline.download.drawn.other_classes import OTHER_CLASSES
from pipeline.download.drawn.petimages import DEFECTS, FOLDERS, defects, draw_petimages, draw_photo, photo_file
from pipeline.errors import PipelineError

SEED = 3


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety files, enough to hold every defect of both classes."""
    root = tmp_path_factory.mktemp("drawn")
    draw_petimages(root, num_photos=90, seed=SEED, workers=2)
    return root / "PetImages"


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def with_defect(defect: str) -> list[tuple[str, int]]:
    return [(folder, index) for folder in FOLDERS for index, kind in defects(folder, SEED).items() if kind == defect]


def test_layout(drawn: Path) -> None:
    expected = {f"{folder}/{index}.jpg" for folder in FOLDERS for index in range(45)}
    assert set(contents(drawn)) == expected | {f"{folder}/Thumbs.db" for folder in FOLDERS}


def test_the_number_of_workers_and_of_photos_does_not_matter(drawn: Path, tmp_path: Path) -> None:
    draw_petimages(tmp_path, num_photos=31, seed=SEED, workers=1)
    fewer, all_files = contents(tmp_path / "PetImages"), contents(drawn)
    assert len(fewer) == 31 + len(FOLDERS)
    assert all(all_files[name] == content for name, content in fewer.items())


def test_a_file_depends_on_seed_class_and_index() -> None:
    files = [photo_file(*arguments) for arguments in (("Cat", 50, 0), ("Cat", 51, 0), ("Dog", 50, 0), ("Cat", 50, 1))]
    assert len(set(files)) == len(files)
    assert photo_file("Cat", 50, 0) == files[0]


def test_every_clean_file_is_a_photo_of_the_right_size(drawn: Path) -> None:
    for folder in FOLDERS:
        for index in set(range(45)) - set(defects(folder, SEED)):
            with Image.open(drawn / folder / f"{index}.jpg") as photo:
                photo.load()
                assert photo.format == "JPEG"
                assert photo.mode == "RGB"
                assert 180 <= min(photo.size) <= max(photo.size) <= 400


def test_each_class_has_each_defect_once() -> None:
    for folder in FOLDERS:
        assert sorted(defects(folder, SEED).values()) == sorted(DEFECTS)


@pytest.mark.parametrize(("folder", "index"), with_defect("empty"))
def test_empty_file(drawn: Path, folder: str, index: int) -> None:
    assert (drawn / folder / f"{index}.jpg").stat().st_size == 0


@pytest.mark.parametrize(("folder", "index"), with_defect("truncated"))
def test_truncated_file(drawn: Path, folder: str, index: int) -> None:
    with Image.open(drawn / folder / f"{index}.jpg") as photo:
        with pytest.raises(OSError, match="truncated"):
            photo.load()


@pytest.mark.parametrize("folder", FOLDERS)
def test_duplicate(drawn: Path, folder: str) -> None:
    files = [content for name, content in contents(drawn).items() if name.startswith(folder)]
    assert len(files) - len(set(files)) == 1


@pytest.mark.parametrize(("defect", "mode"), [("cmyk", "CMYK"), ("grey", "L")])
def test_unusual_modes(drawn: Path, defect: str, mode: str) -> None:
    for folder, index in with_defect(defect):
        with Image.open(drawn / folder / f"{index}.jpg") as photo:
            assert photo.mode == mode


@pytest.mark.parametrize(
    ("defect", "method"), [("turned 90", Image.Transpose.ROTATE_270), ("turned 180", Image.Transpose.ROTATE_180)]
)
def test_orientation_turns_the_photo_upright(drawn: Path, defect: str, method: Image.Transpose) -> None:
    for folder, index in with_defect(defect):
        upright = draw_photo(folder.lower(), np.random.default_rng([SEED, FOLDERS.index(folder), index])).astype(float)
        with Image.open(drawn / folder / f"{index}.jpg") as photo:
            turned = np.asarray(photo.transpose(method), dtype=float)
        assert np.abs(turned - upright).mean() < 8
        as_opencv_reads_it = cv2.imread(str(drawn / folder / f"{index}.jpg"), cv2.IMREAD_COLOR)
        assert as_opencv_reads_it is not None
        assert as_opencv_reads_it.shape == upright.shape


@pytest.mark.parametrize("kind", ["cat", "dog", *OTHER_CLASSES])
def test_every_kind_can_be_drawn(kind: str) -> None:
    photo = draw_photo(kind, np.random.default_rng(5))
    assert photo.dtype == np.uint8
    assert photo.shape[2] == 3
    assert photo.std() > 5
    assert np.array_equal(photo, draw_photo(kind, np.random.default_rng(5)))


def test_unknown_kind() -> None:
    with pytest.raises(PipelineError, match="cannot draw 'unicorn'"):
        draw_photo("unicorn", np.random.default_rng(0))


@pytest.mark.parametrize(("num_photos", "workers"), [(1, 1), (10, 0)])
def test_impossible_numbers(tmp_path: Path, num_photos: int, workers: int) -> None:
    with pytest.raises(PipelineError, match="at least 2 photos"):
        draw_petimages(tmp_path, num_photos=num_photos, seed=0, workers=workers)


def test_a_destination_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(PipelineError, match="cannot write the drawn photos"):
        draw_petimages(tmp_path / "taken", num_photos=4, seed=0, workers=1)


def test_drawing_does_not_load_torch() -> None:
    """Each worker process would pay for it."""
    code = "import sys, pipeline.download.drawn.petimages; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_thumbnails_do_not_give_the_class_away(tmp_path: Path) -> None:
    """Colour, brightness and coarse shape are not enough: the strongest linear model on thumbnails stays below 75%."""
    draw_petimages(tmp_path, num_photos=1210, seed=0)
    features, labels = read_thumbnails(tmp_path)
    assert len(labels) >= 1200
    assert max(cross_validated_accuracy(name, features, labels) for name in MODELS) < 0.75
