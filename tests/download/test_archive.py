"""Unpacking: every layout in every kind of archive, and a destination that is there whole or not at all."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.data import members
from pipeline.download.archive import Unpacked, unpack_photos
from pipeline.errors import PipelineError
from pipeline.files import sha256_of
from tests.download.packing import SOURCES, pack

ROOT = Path(__file__).parents[2]
PUBLISHED = {
    "kaggle/PetImages/Cat/0.jpg": b"cat 0",
    "kaggle/PetImages/Cat/666.jpg": b"",
    "kaggle/PetImages/Cat/Thumbs.db": b"thumbs",
    "kaggle/PetImages/Dog/0.jpg": b"dog 0",
    "kaggle/PetImages/Dog/1.JPEG": b"dog 1",
    "kaggle/readme[1].txt": b"read me",
    "kaggle/MSR-LA - 3467.docx": b"licence",
}
FLAT = {
    "train/cat.0.jpg": b"cat 0",
    "train/cat.12.png": b"cat 12",
    "train/DOG.0.jpg": b"dog 0",
    "train/notes.txt": b"",
    "test1/1.jpg": b"?",
}
CLASSES = {
    "photos/cats/a.jpg": b"a",
    "photos/wild dogs/b.webp": b"b",
    "photos/wild dogs/list.csv": b"c",
    "photos/Vögel/ü.jpg": b"d",
    "photos/readme.md": b"",
}
SMALL = {"PetImages/Cat/0.jpg": b"new cat", "PetImages/Dog/0.jpg": b"new dog"}


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "data" / "raw"


@pytest.mark.parametrize("kind", SOURCES)
def test_the_published_layout(tmp_path: Path, destination: Path, kind: str) -> None:
    unpacked = unpack_photos(pack(kind, PUBLISHED, tmp_path), destination)
    assert unpacked == Unpacked({"Cat": 3, "Dog": 2}, files=5, bytes=21, layout="published", ignored=2)
    photos = {name: content for name, content in PUBLISHED.items() if "PetImages" in name}
    assert files_below(destination) == {name.removeprefix("kaggle/"): content for name, content in photos.items()}
    assert os.listdir(destination.parent) == ["raw"]


@pytest.mark.parametrize("kind", SOURCES)
def test_the_flat_layout(tmp_path: Path, destination: Path, kind: str) -> None:
    unpacked = unpack_photos(pack(kind, FLAT, tmp_path), destination)
    assert unpacked == Unpacked({"Cat": 2, "Dog": 1}, files=3, bytes=16, layout="flat", ignored=2)
    assert files_below(destination) == {
        "PetImages/Cat/0.jpg": b"cat 0",
        "PetImages/Cat/12.png": b"cat 12",
        "PetImages/Dog/0.jpg": b"dog 0",
    }


@pytest.mark.parametrize("kind", SOURCES)
def test_a_folder_for_each_class(tmp_path: Path, destination: Path, kind: str) -> None:
    unpacked = unpack_photos(pack(kind, CLASSES, tmp_path), destination)
    counts = {"Vögel": 1, "cats": 1, "wild dogs": 2}
    assert unpacked == Unpacked(counts, files=4, bytes=4, layout="class folders", ignored=1)
    assert files_below(destination) == {
        "PetImages/cats/a.jpg": b"a",
        "PetImages/wild dogs/b.webp": b"b",
        "PetImages/wild dogs/list.csv": b"c",
        "PetImages/Vögel/ü.jpg": b"d",
    }


def test_names_as_other_programs_write_them(tmp_path: Path, destination: Path) -> None:
    names = {
        "./": b"",
        "./PetImages\\Cat\\": b"",
        "./PetImages\\Cat\\0.jpg": b"cat",
        "PetImages//Dog/./0.jpg": b"dog",
        "__MACOSX/PetImages/Cat/._0.jpg": b"",
        "PetImages/.cache/0.jpg": b"",
        "PetImages/Cat/.DS_Store": b"mac",
    }
    unpacked = unpack_photos(pack("zip", names, tmp_path), destination)
    assert (unpacked.files, unpacked.ignored) == (3, 2)
    assert files_below(destination) == {
        "PetImages/Cat/0.jpg": b"cat",
        "PetImages/Dog/0.jpg": b"dog",
        "PetImages/Cat/.DS_Store": b"mac",
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.jpg": b"", "b.jpg": b""},
            r"no photos in a layout .*It holds 'a.jpg', 'b.jpg'\. Known are PetImages/Cat/0.jpg",
        ),
        (
            {f"{i:02}.txt": b"" for i in range(99)},
            r"holds '00.txt', '01.txt', '02.txt', '03.txt', '04.txt' and 94 more\.",
        ),
        ({}, "holds no files"),
        ({"PetImages/Cat/0.jpg": b""}, r"one class alone \(Cat\)"),
        ({"cats/cat.0.jpg": b"", "cats/cat.1.jpg": b""}, r"one class alone \(cats\)"),
        ({**SMALL, "PetImages/Bird/": b""}, "class folder 'PetImages/Bird' has no photos"),
        ({**SMALL, "PetImages/Bird/Thumbs.db": b""}, "class folder 'PetImages/Bird' has no photos"),
        ({"x/Cat/0.jpg": b"", "x/Dog/0.jpg": b"", "x/Elk/": b""}, "class folder 'x/Elk' has no photos"),
        ({**SMALL, "old/PetImages/Cat/1.jpg": b""}, r"2 sets of photos, in 'PetImages', 'old/PetImages'"),
        ({f"{part}/{name}.0.jpg": b"" for part in "ab" for name in ("cat", "dog")}, "2 sets of photos, in 'a', 'b'"),
        ({f"{part}/{name}/0.jpg": b"" for part in ("train", "more") for name in "cd"}, "in 'more', 'train'"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar.gz", "folder"])
def test_what_is_in_no_known_layout(
    tmp_path: Path, destination: Path, kind: str, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        unpack_photos(pack(kind, files, tmp_path), destination)
    assert os.listdir(destination.parent) == []


def test_an_earlier_result_is_replaced_by_a_good_one_alone(tmp_path: Path, destination: Path) -> None:
    old = {"PetImages/Cat/7.jpg": b"old cat", "PetImages/Dog/7.jpg": b"old dog"}
    unpack_photos(pack("tar", old, tmp_path), destination)
    damaged = pack("zip", SMALL, tmp_path)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-10])
    with pytest.raises(PipelineError):
        unpack_photos(damaged, destination)
    assert files_below(destination) == old
    damaged.write_bytes(whole)
    unpack_photos(damaged, destination)
    assert files_below(destination) == SMALL
    assert os.listdir(destination.parent) == ["raw"]


def test_nothing_else_is_replaced(tmp_path: Path, destination: Path) -> None:
    source = pack("zip", SMALL, tmp_path)
    destination.mkdir(parents=True)
    (destination / "thesis.tex").write_text("years of work")
    with pytest.raises(PipelineError, match=r"holds other things than PetImages \('thesis.tex'\)"):
        unpack_photos(source, destination)
    with pytest.raises(PipelineError, match="is a file"):
        unpack_photos(source, destination / "thesis.tex")
    assert files_below(destination) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("inside", ["source", "source/PetImages", "."])
def test_source_and_destination_are_kept_apart(tmp_path: Path, inside: str) -> None:
    source = pack("folder", SMALL, tmp_path)
    with pytest.raises(PipelineError, match="lie one in the other"):
        unpack_photos(source, tmp_path / inside)
    assert files_below(source) == SMALL


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_a_stopped_run_is_invisible(tmp_path: Path, destination: Path, how: signal.Signals) -> None:
    source = pack("tar", {f"{name}/{i}.jpg": b"photo" for name in ("Cat", "Dog") for i in range(20)}, tmp_path)
    code = (
        "import os, sys, pathlib, pipeline.download.archive as a\n"
        "copy = a._copy\n"
        "def copy_and_stop(source, member, target):\n"
        "    copy(source, member, target)\n"
        "    if member.name == 'Dog/10.jpg': os.kill(os.getpid(), int(sys.argv[3]))\n"
        "a._copy = copy_and_stop\n"
        "a.unpack_photos(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(source), str(destination), str(int(how))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=20, check=False)
    assert done.returncode == -how
    assert os.listdir(destination.parent) == ([".raw.unpacking"] if how == signal.SIGKILL else [])
    assert unpack_photos(source, destination).files == 40
    assert os.listdir(destination.parent) == ["raw"]


def test_killed_while_replacing(tmp_path: Path, destination: Path) -> None:
    source = pack("zip", SMALL, tmp_path)
    unpack_photos(source, destination)
    destination.rename(destination.with_name(".raw.old"))
    source.write_bytes(b"")
    with pytest.raises(PipelineError):
        unpack_photos(source, destination)
    assert files_below(destination) == SMALL


def test_too_little_room(tmp_path: Path, destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pack("folder", SMALL, tmp_path)
    needed = shutil.disk_usage(tmp_path).free + 10**9
    monkeypatch.setattr(members, "MAX_BYTES", 2 * needed)
    os.truncate(source / "PetImages/Cat/0.jpg", needed)  # a sparse file, which takes up nothing
    with pytest.raises(PipelineError, match=r"no room to unpack .*MB are free on the disk mounted at /"):
        unpack_photos(source, destination)
    assert os.listdir(destination.parent) == []


def test_a_file_that_the_disk_does_not_take(tmp_path: Path, destination: Path) -> None:
    """A real failure of the operating system in the middle: a limit on the size of files, as FAT has one."""
    source = pack("folder", {**SMALL, "PetImages/Dog/1.jpg": bytes(100_000)}, tmp_path)
    code = (
        "import sys, pathlib, resource, pipeline.download.archive as a\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "a.unpack_photos(*map(pathlib.Path, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(source), str(destination)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert f"PipelineError: {destination} cannot be written: {os.strerror(errno.EFBIG)}." in done.stderr
    assert os.listdir(destination.parent) == []


def test_a_disk_that_fills_up(tmp_path: Path, destination: Path) -> None:
    """A real full disk: a file system with room for a few files, where the kernel lets us make one."""
    source = pack("zip", {f"{name}/{i}.jpg": b"photo" for name in ("Cat", "Dog") for i in range(20)}, tmp_path)
    old = {"PetImages/Cat/7.jpg": b"old cat", "PetImages/Dog/7.jpg": b"old dog"}
    code = (
        "import sys, os, pathlib, pipeline.download.archive as a\n"
        "old, new, disk = map(pathlib.Path, sys.argv[1:])\n"
        "a.unpack_photos(old, disk / 'raw')\n"
        "try: a.unpack_photos(new, disk / 'raw')\n"
        "finally: print(os.listdir(disk), sum(path.is_file() for path in disk.rglob('*')))"
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'disk="$1"; shift; mount -t tmpfs -o size=1m,nr_inodes=20 none "$disk" && exec "$@"'
    mounted: list[str | Path] = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", disk]
    if shutil.which("unshare") is None or subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    command = [*mounted, sys.executable, "-c", code, pack("folder", old, tmp_path), source, disk]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert f"PipelineError: {disk}/raw cannot be written: the disk mounted at {disk} is full." in done.stderr
    assert done.stdout.splitlines()[-1] == "['raw'] 2"


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_imports_are_light() -> None:
    code = "import sys, pipeline.download.archive, pipeline.download.fetch; print({'torch', 'numpy', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
