"""What is refused of an archive: whatever could do harm, and whatever is not what was packed."""

import contextlib
import gzip
import os
import stat
import tarfile
import tempfile
import unicodedata
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pipeline.data import members
from pipeline.download.archive import unpack_photos
from pipeline.errors import PipelineError
from tests.download.packing import ARCHIVES, entry, pack, pack_tar

# Bytes that no compression shortens, so that a cut anywhere is a cut in photos.
SMALL = {f"PetImages/{name}/{i}.jpg": os.urandom(3000) for name in ("Cat", "Dog") for i in range(4)}


def assert_refused(source: Path, message: str) -> None:
    """Unpacking fails with the message and leaves nothing, neither where it should be nor anywhere else."""
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(PipelineError, match=message) as caught:
        unpack_photos(source, source.parent / "raw")
    assert str(source) in str(caught.value)
    assert sorted(source.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "has an absolute path"),
        ("\\windows\\system32\\evil.dll", "has an absolute path"),
        ("//server/share/evil.jpg", "has an absolute path"),
        ("C:\\evil.jpg", "has an absolute path"),
        ("c:evil.jpg", "has an absolute path"),
        ("../evil.jpg", "leads out of its folder"),
        ("PetImages/../../evil.jpg", "leads out of its folder"),
        ("PetImages\\..\\..\\evil.jpg", "leads out of its folder"),
        ("PetImages/.. /evil.jpg", "leads out of its folder"),
        ("PetImages/.../evil.jpg", "leads out of its folder"),
        ("PetImages/Cat/..", "leads out of its folder"),
        ("PetImages/Cat/evil\0.jpg", "has a NUL in its name"),
        (f"PetImages/Cat/{'ü' * 128}.jpg", "has a name of more than 255 bytes"),
        (".", "has no name"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names(tmp_path: Path, kind: str, name: str, reason: str) -> None:
    if kind == "tar":
        info = entry(name)
        info.pax_headers = {"path": name}  # which can hold a NUL
        source = pack_tar(tmp_path / "a.tar", [(info, b"")])
    else:
        source = tmp_path / "a.zip"
        with zipfile.ZipFile(source, "w") as archive:
            zipped = zipfile.ZipInfo("x")
            zipped.filename = name  # as it is; the constructor would mend it
            archive.writestr(zipped, b"")
    assert_refused(source, rf"the member .*{reason}, which is refused")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_are_not_utf8(tmp_path: Path, kind: str) -> None:
    source = pack(kind, {"PetImages/Cat/é.jpg": b""}, tmp_path)
    source.write_bytes(source.read_bytes().replace("é".encode(), b"\xff\xfe"))
    assert_refused(source, "valid UTF-8")


KINDS = {
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "unknown": b"V",
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    evil = entry("PetImages/Cat/evil.jpg", kind=kind)
    assert_refused(pack_tar(tmp_path / "a.tar", [(evil, b"")]), "'PetImages/Cat/evil.jpg' is a link or a device")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip(tmp_path: Path, kind: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("PetImages/Cat/evil.jpg")
        info.external_attr = (kind | 0o644) << 16
        archive.writestr(info, b"/etc/passwd")
    assert_refused(tmp_path / "a.zip", "'PetImages/Cat/evil.jpg' is a link or a device")


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "pipe"])
def test_links_and_devices_in_a_folder(tmp_path: Path, kind: str) -> None:
    source = pack("folder", SMALL, tmp_path)
    evil = source / "PetImages/evil"
    if kind == "pipe":
        os.mkfifo(evil)
    else:
        evil.symlink_to("/etc/passwd" if kind == "link to a file" else "/etc")
    assert_refused(source, "'PetImages/evil' is a link or a device")


def test_encrypted_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("PetImages/Cat/0.jpg", b"secret")
        archive.infolist()[0].flag_bits |= 1
    assert_refused(tmp_path / "a.zip", "'PetImages/Cat/0.jpg' is encrypted")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("PetImages/Cat/a.jpg", "PetImages/Cat/A.JPG"),
        ("PetImages/Cat/a.jpg", "PetImages/cat/b.jpg"),
        ("PetImages/Cat/a.jpg", "PetImages/Cat/a.jpg"),
        ("PetImages/Cat/a.jpg", "PetImages\\Cat\\a.jpg"),
        *((f"PetImages/Cat/{unicodedata.normalize(form, 'ü')}.jpg", "PetImages/Cat/Ü.jpg") for form in ("NFC", "NFD")),
    ],
)
def test_collisions(tmp_path: Path, one: str, other: str) -> None:
    source = tmp_path / "a.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(source, "w") as archive:
        warnings.simplefilter("ignore")  # a name that is used twice
        for name in (one, other, "PetImages/Dog/0.jpg"):
            archive.writestr(name, b"")
    assert_refused(source, "would be one on a disk that does not tell small letters from capitals")


@pytest.mark.parametrize("kind", [*ARCHIVES, "folder"])
def test_too_many_members(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_MEMBERS", 7)
    assert_refused(pack(kind, SMALL, tmp_path), "more than 7 members")


@pytest.mark.parametrize("kind", [*ARCHIVES, "folder"])
def test_too_many_bytes(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_BYTES", 7 * 3000)
    assert_refused(pack(kind, SMALL, tmp_path), r"more than 0\.0 MB \(reached at 'PetImages/Dog/3.jpg'\)")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_decompression_bombs(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = {**SMALL, "PetImages/Dog/bomb.jpg": bytes(8 * 10**6)}
    monkeypatch.setattr(members, "HARMLESS_BYTES", 10**5)
    assert_refused(pack(kind, bomb, tmp_path), r"reached at 'PetImages/Dog/bomb.jpg'.*refused as a decompression bomb")


@pytest.mark.parametrize(("kind", "size"), [(tarfile.XHDTYPE, 2**40), (tarfile.GNUTYPE_LONGNAME, 2**40), (b"0", -512)])
def test_tar_headers_that_lie(tmp_path: Path, kind: bytes, size: int) -> None:
    info = entry("PetImages/Cat/0.jpg", size, kind)
    headers = [entry("PetImages/").tobuf(), info.tobuf(tarfile.GNU_FORMAT)]
    (tmp_path / "a.tar").write_bytes(b"".join(headers) + bytes(1024))
    assert_refused(tmp_path / "a.tar", f"a header states a size of {size} bytes")


def test_a_zip_whose_sizes_lie(tmp_path: Path) -> None:
    source = pack("zip", SMALL, tmp_path)
    with zipfile.ZipFile(source, "a") as archive:
        archive.infolist()[0].file_size = 2999
        archive.writestr("rewrites the directory", b"")
    assert_refused(source, "'PetImages/Cat/0.jpg' is damaged")


def test_an_unknown_compression(tmp_path: Path) -> None:
    source = pack("zip", SMALL, tmp_path)
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("rewrites the directory", b"")
        archive.infolist()[0].compress_type = 9  # Deflate64, of which Windows makes use for large archives
    assert_refused(source, r"'PetImages/Cat/0.jpg' cannot be read \(.*\): unpack it by other means and give the folder")


def test_missing_and_empty_sources(tmp_path: Path) -> None:
    assert_refused(tmp_path / "a.zip", "does not exist")
    (tmp_path / "a.zip").touch()
    assert_refused(tmp_path / "a.zip", r"is empty \(0 bytes\): download the archive again")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_cut_archives(tmp_path: Path, kind: str, share: float) -> None:
    source = pack(kind, SMALL, tmp_path)
    os.truncate(source, int(source.stat().st_size * share))
    assert_refused(source, "download the archive again" if share > 0.01 or kind != "tar" else "no zip and no tar")


def test_a_tar_that_is_cut_between_members(tmp_path: Path) -> None:
    source = pack("tar", SMALL, tmp_path)
    with tarfile.open(source) as archive:
        end = archive.getmembers()[5].offset
    os.truncate(source, end)
    assert_refused(source, "damaged or was cut short")


def flip(source: Path, position: int) -> None:
    content = bytearray(source.read_bytes())
    content[position] ^= 0xFF
    source.write_bytes(content)


def test_a_damaged_tar_header(tmp_path: Path) -> None:
    source = pack("tar", SMALL, tmp_path)
    with tarfile.open(source) as archive:
        position = archive.getmembers()[5].offset
    flip(source, position)
    assert_refused(source, r"damaged or was cut short \(bad checksum\)")


def test_a_damaged_member_of_a_zip(tmp_path: Path) -> None:
    source = pack("zip", SMALL, tmp_path)
    flip(source, source.read_bytes().find(SMALL["PetImages/Dog/2.jpg"]) + 1000)
    assert_refused(source, "'PetImages/Dog/2.jpg' is damaged or was cut short .*CRC.*: download the archive again")


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_damaged_compressed_tar(tmp_path: Path, kind: str, share: float) -> None:
    source = pack(kind, SMALL, tmp_path)
    flip(source, int(source.stat().st_size * share))
    assert_refused(source, "is damaged.*: download the archive again")


def test_a_wrong_checksum_at_the_end_of_a_gzip(tmp_path: Path) -> None:
    source = pack("tar.gz", SMALL, tmp_path)
    flip(source, -6)
    assert_refused(source, "CRC check failed")


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"\n<!DOCTYPE html><html><title>Sign in</title>", "looks like an HTML page"),
        (b"<HTML><body>404", "looks like an HTML page"),
        (b'{"error": "rate limit"}', "looks like a JSON document"),
        (b"\xff\xd8\xff\xe0" + bytes(1000), "looks like a JPEG photo"),
        (b"Rar!\x1a\x07\x01\x00", "looks like a RAR archive: unpack it"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "looks like a 7-Zip archive: unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "looks like a Git LFS pointer"),
        (b"hello", r"looks like something else, beginning with b'hello'"),
        (gzip.compress(b"one photo, say", mtime=0), "is compressed but no tar"),
        (b"PK\x03\x04 and then nothing", "is damaged or was cut short"),
    ],
)
def test_what_is_no_archive(tmp_path: Path, content: bytes, looks: str) -> None:
    (tmp_path / "photos.zip").write_bytes(content)
    assert_refused(tmp_path / "photos.zip", looks)


PIECES = st.sampled_from(
    ["..", ".", "", "PetImages", "Cat", "Dog", "cat", "cat.1.jpg", "a.jpg", "FOLDER", "\\", "C:", "~", "\n", " "]
)
NAMES = st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=6).map("/".join).filter(bool)


@settings(max_examples=100, deadline=None)
@given(name=NAMES, kind=st.sampled_from(["zip", "tar"]))
@example(name="FOLDER/evil.jpg", kind="zip")
@example(name="PetImages/Cat/a.jpg", kind="tar")
def test_no_name_leads_out(name: str, kind: str) -> None:
    assume(kind != "zip" or not name.startswith("\0"))  # zipfile cannot write such a member, as it cuts names at a NUL
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that is used twice
        folder = Path(temporary)
        names = {"PetImages/Cat/0.jpg": b"", "PetImages/Dog/0.jpg": b"", name.replace("FOLDER", temporary): b""}
        source = pack(kind, names, folder)
        files = 0
        with contextlib.suppress(PipelineError):
            files = unpack_photos(source, folder / "inner/raw").files
        source.unlink()
        places = [path.relative_to(folder).parts for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
        assert len(places) == files
        assert all(place[:3] == ("inner", "raw", "PetImages") and len(place) == 5 for place in places)
