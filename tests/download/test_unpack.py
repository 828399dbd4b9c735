"""Unpacking: a destination that is there whole or not at all, whatever happens meanwhile."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from pipeline.download.unpack import unpack_photos
from pipeline.errors import PipelineError
from tests.clones import ROOT, run
from tests.download.packing import files_below, pack
from tests.refusals import refused

SMALL = {"PetImages/Cat/0.jpg": b"new cat", "PetImages/Dog/0.jpg": b"new dog"}
OLD = {"PetImages/Cat/7.jpg": b"old cat", "PetImages/Dog/7.jpg": b"old dog"}
MANY = {f"{name}/{i}.jpg": b"photo" for name in ("Cat", "Dog") for i in range(20)}


def test_splits_name_a_photo_as_the_manifest_will(tmp_path: Path) -> None:
    for split, label, name in ((split, label, name) for split in ("train", "test") for label in "ab" for name in ("0", "1\t")):
        (tmp_path / "set" / split / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / split / label / f"{split}{name}.jpg").write_bytes(b"")
    unpack_photos(tmp_path / "set", tmp_path / "raw")
    assert r"PetImages/a/train1\x09.jpg,train" in (tmp_path / "raw/splits.csv").read_text().splitlines()


def test_an_earlier_result_is_replaced_only_by_a_good_one(tmp_path: Path, destination: Path) -> None:
    unpack_photos(pack("tar", OLD, tmp_path), destination)
    damaged = pack("zip", SMALL, tmp_path)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-10])
    with pytest.raises(PipelineError):
        unpack_photos(damaged, destination)
    assert files_below(destination) == OLD
    damaged.write_bytes(whole)
    unpack_photos(damaged, destination)
    assert files_below(destination) == SMALL
    assert os.listdir(destination.parent) == [destination.name]


def test_nothing_else_is_replaced(tmp_path: Path, destination: Path) -> None:
    source = pack("zip", SMALL, tmp_path)
    destination.mkdir(parents=True)
    (destination / "thesis.tex").write_text("years of work")
    refused(r"holds other things \('thesis.tex'\)", unpack_photos, source, destination)
    refused("is a file", unpack_photos, source, destination / "thesis.tex")
    assert files_below(destination) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("inside", ["source/PetImages", "."])
def test_source_and_destination_lie_apart(tmp_path: Path, inside: str) -> None:
    source = pack("folder", SMALL, tmp_path)
    refused("lie one in the other", unpack_photos, source, tmp_path / inside)
    assert files_below(source) == SMALL
    refused(r"none\.zip does not exist", unpack_photos, tmp_path / "none.zip", tmp_path / "raw")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_a_stopped_run_is_invisible(tmp_path: Path, destination: Path, kind: str, how: signal.Signals) -> None:
    source = pack(kind, MANY, tmp_path)
    code = (
        "import os, sys, pathlib, pipeline.download.extract as e, pipeline.download.unpack as u\n"
        "module, name = (u, '_copy') if pathlib.Path(sys.argv[1]).is_dir() else (e, '_write')\n"
        "write, count = getattr(module, name), iter(range(99))\n"
        "def write_and_stop(*arguments):\n"
        "    write(*arguments)\n"
        "    if next(count) == 30: os.kill(os.getpid(), int(sys.argv[3]))\n"
        "setattr(module, name, write_and_stop)\n"
        "u.unpack_photos(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    )
    stopped = run(ROOT, "python", "-c", code, str(source), str(destination), str(int(how)), check=False)
    assert stopped.returncode == -how
    assert os.listdir(destination.parent) == ([f".{destination.name}.unpacking"] if how == signal.SIGKILL else [])
    assert unpack_photos(source, destination).classes == {"Cat": 20, "Dog": 20}
    assert os.listdir(destination.parent) == [destination.name]
    assert (files_below(source) == MANY) or kind == "tar"


def test_killed_while_replacing(tmp_path: Path, destination: Path) -> None:
    source = pack("zip", SMALL, tmp_path)
    unpack_photos(source, destination)
    destination.rename(destination.with_name(f".{destination.name}.old"))
    source.write_bytes(b"")
    with pytest.raises(PipelineError):
        unpack_photos(source, destination)
    assert files_below(destination) == SMALL


def test_too_little_room(tmp_path: Path, destination: Path) -> None:
    source = pack("folder", SMALL, tmp_path)
    # a sparse file, which takes up nothing
    os.truncate(source / "PetImages/Cat/0.jpg", shutil.disk_usage(tmp_path).free + 10**9)
    refused(r"no room to unpack .*MB are free on the disk mounted at /", unpack_photos, source, destination)
    assert os.listdir(destination.parent) == []


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """A real full disk: a file system with room for a few files, where the kernel lets us make one."""
    code = (
        "import sys, os, pathlib, pipeline.download.unpack as u\n"
        "old, new, disk = map(pathlib.Path, sys.argv[1:])\n"
        "u.unpack_photos(old, disk / 'raw')\n"
        "try: u.unpack_photos(new, disk / 'raw')\n"
        "finally: print(os.listdir(disk), sum(path.is_file() for path in disk.rglob('*')))"
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'disk="$1"; shift; mount -t tmpfs -o size=1m,nr_inodes=20 none "$disk" && exec "$@"'
    mounted = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(disk))
    if shutil.which("unshare") is None or subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    old, new = pack("folder", OLD, tmp_path), pack("zip", MANY, tmp_path)
    done = run(ROOT, *mounted, "python", "-c", code, str(old), str(new), str(disk), check=False)
    assert f"PipelineError: {disk}/raw cannot be written: the disk mounted at {disk} is full." in done.stderr
    assert done.stdout.splitlines()[-1] == "['raw'] 2"
