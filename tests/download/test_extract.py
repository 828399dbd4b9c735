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

from pipeline.download import extract
from pipeline.download.unpack import unpack_photos
from pipeline.errors import PipelineError
from tests.download.packing import ARCHIVES, entry, pack, pack_tar

# Bytes that no compression shortens, so that a cut anywhere is a cut in photos.
SMALL = {f"PetImages/{name}/{i}.jpg": os.urandom(3000) for name in ("Cat", "Dog") for i in range(4)}
EVIL = "PetImages/Cat/evil.jpg"


def assert_refused(source: Path, message: str) -> None:
    """Unpacking fails with the message and leaves nothing, neither where it should be nor anywhere else."""
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(PipelineError, match=message) as caught:
        unpack_photos(source, source.parent / "raw")
    assert str(source) in str(caught.value)
    assert sorted(source.parent.rglob("*")) == before


UNSAFE = ["/etc/passwd", "//server/share/evil.jpg", "C:\\evil.jpg", "c:evil.jpg", "../evil.jpg", "PetImages/../../evil.jpg"]
UNSAFE += ["PetImages\\..\\..\\evil.jpg", "PetImages/.. /evil.jpg", "PetImages/Cat/..", "PetImages/Cat/evil\0.jpg"]


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names(tmp_path: Path, kind: str, name: str) -> None:
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
    assert_refused(source, "the member .* has an unsafe name")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_are_not_utf8(tmp_path: Path, kind: str) -> None:
    source = pack(kind, {"PetImages/Cat/é.jpg": b""}, tmp_path)
    source.write_bytes(source.read_bytes().replace("é".encode(), b"\xff\xfe"))
    assert_refused(source, "valid UTF-8|utf-8")


@pytest.mark.parametrize("encoding", ["utf-8", "cp437"])
def test_names_whose_encoding_a_zip_does_not_say(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile.ZipInfo, "_encodeFilenameFlags", lambda info: (info.filename.encode(encoding), 0))
    source = pack("zip", {"Vögel/0.jpg": b"", "Hunde/0.jpg": b""}, tmp_path)
    assert unpack_photos(source, tmp_path / "raw").classes == {"Hunde": 1, "Vögel": 1}


LINKS_IN_TARS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
LINKS_IN_ZIPS = [stat.S_IFLNK, stat.S_IFIFO]


@pytest.mark.parametrize("kind", [*LINKS_IN_TARS, *LINKS_IN_ZIPS])
def test_links_and_devices(tmp_path: Path, kind: bytes | int) -> None:
    if isinstance(kind, bytes):
        source = pack_tar(tmp_path / "a.tar", [(entry(EVIL, kind=kind), b"")])
    else:
        source = tmp_path / "a.zip"
        with zipfile.ZipFile(source, "w") as archive:
            info = zipfile.ZipInfo(EVIL)
            info.external_attr = (kind | 0o644) << 16
            archive.writestr(info, b"/etc/passwd")
    assert_refused(source, f"'{EVIL}' is a link or a device")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("PetImages/Cat/a.jpg", "PetImages/Cat/A.JPG"),
        ("PetImages/Cat/a.jpg", "PetImages/cat/b.jpg"),
        ("PetImages/Cat/a.jpg", "PetImages/Cat/a.jpg"),
        ("PetImages/Cat/a.jpg", "PetImages\\Cat\\a.jpg"),
        ("train/Cat/a.jpg", "test/cat/b.jpg"),
        *((f"PetImages/Cat/{unicodedata.normalize(form, 'ü')}.jpg", "PetImages/Cat/Ü.jpg") for form in ("NFC", "NFD")),
    ],
)
def test_collisions(tmp_path: Path, one: str, other: str) -> None:
    source = tmp_path / "a.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(source, "w") as archive:
        warnings.simplefilter("ignore")  # a name that is used twice
        for name in (one, other, f"{one.split('/')[0]}/Dog/0.jpg"):
            archive.writestr(name, b"")
    assert_refused(source, "would be one on a disk that ignores case")


def test_collisions_in_a_folder(tmp_path: Path) -> None:
    source = pack("folder", {**SMALL, "PetImages/cat/0.jpg": b""}, tmp_path)
    if len(os.listdir(source / "PetImages")) < 3:
        pytest.skip("this disk ignores case")
    assert_refused(source, "'PetImages/.at' and 'PetImages/.at' would be one on a disk that ignores case")


BOMB = {**SMALL, "PetImages/Dog/bomb.jpg": bytes(8 * 10**6)}


LIMITS = {
    "MAX_MEMBERS": (7, SMALL, "more than 7 members"),
    "MAX_BYTES": (21_000, SMALL, r"more than 0\.0 MB \(reached at 'PetImages/Dog/3.jpg'\)"),
    "HARMLESS_BYTES": (10**5, BOMB, r"decompression bomb.*reached at 'PetImages/Dog/bomb.jpg'"),
}


@pytest.mark.parametrize(
    ("kind", "limit"),
    [(kind, limit) for kind in ("zip", "tar", "tar.gz") for limit in LIMITS if (kind, limit) != ("tar", "HARMLESS_BYTES")],
)
def test_limits(tmp_path: Path, kind: str, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, files, message = LIMITS[limit]
    monkeypatch.setattr(extract, limit, value)
    assert_refused(pack(kind, files, tmp_path), message)


@pytest.mark.parametrize(("kind", "size"), [(tarfile.XHDTYPE, 2**40), (tarfile.GNUTYPE_LONGNAME, 2**40), (b"0", -512)])
def test_tar_headers_that_lie(tmp_path: Path, kind: bytes, size: int) -> None:
    info = entry("PetImages/Cat/0.jpg", size, kind)
    headers = [entry("PetImages/").tobuf(), info.tobuf(tarfile.GNU_FORMAT)]
    (tmp_path / "a.tar").write_bytes(b"".join(headers) + bytes(1024))
    assert_refused(tmp_path / "a.tar", f"a header states a size of {size} bytes")


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("flag_bits", 1, "'PetImages/Cat/0.jpg' is encrypted"),
        ("file_size", 2999, "'PetImages/Cat/0.jpg' is damaged"),
        # Deflate64, of which Windows makes use for large archives
        ("compress_type", 9, "unpack it by other means and give the folder"),
    ],
)
def test_what_a_zip_states_of_a_member(tmp_path: Path, attribute: str, value: int, message: str) -> None:
    source = pack("zip", SMALL, tmp_path)
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("rewrites the directory", b"")
        setattr(archive.infolist()[0], attribute, value)
    assert_refused(source, message)


# Damage


@pytest.mark.parametrize("part", [0.001, 0.6])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_truncated_archives(tmp_path: Path, kind: str, part: float) -> None:
    source = pack(kind, SMALL, tmp_path)
    os.truncate(source, int(source.stat().st_size * part))
    assert_refused(source, "(?i)download the archive again")


@pytest.mark.parametrize("truncated", [True, False], ids=["truncated", "damaged header"])
def test_a_tar_that_seems_to_end_early(tmp_path: Path, truncated: bool) -> None:
    source = pack("tar", SMALL, tmp_path)
    with tarfile.open(source) as archive:
        end = archive.getmembers()[5].offset
    os.truncate(source, end) if truncated else flip(source, end)
    assert_refused(source, "is damaged, cut short" if truncated else "bad checksum")


def flip(source: Path, position: int) -> None:
    content = bytearray(source.read_bytes())
    content[position] ^= 0xFF
    source.write_bytes(content)


DAMAGED = [(kind, 0.6, "is damaged.*: download the archive again|begins with") for kind in ARCHIVES if kind != "tar"]


@pytest.mark.parametrize(("kind", "position", "message"), [*DAMAGED, ("tar.gz", -6, "CRC check failed")])
def test_a_damaged_byte(tmp_path: Path, kind: str, position: float, message: str) -> None:
    source = pack(kind, SMALL, tmp_path)
    flip(source, int(position) or int(source.stat().st_size * position))
    assert_refused(source, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Sign in", "is no zip and no tar, or damaged; it begins with b'<!DOCTYPE html>"),
        (gzip.compress(b"one photo, say", mtime=0), "is no zip and no tar"),
        (b"PK\x03\x04 and then nothing", "is damaged, cut short"),
        (b"", "is no zip and no tar"),
    ],
)
def test_what_is_no_archive(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "photos.zip").write_bytes(content)
    assert_refused(tmp_path / "photos.zip", message)


def test_a_tar_that_begins_as_zips_do(tmp_path: Path) -> None:
    source = pack("tar", {f"PK/{name}/0.jpg": b"" for name in ("Cat", "Dog")}, tmp_path)
    assert unpack_photos(source, tmp_path / "raw").classes == {"Cat": 1, "Dog": 1}


PIECES = st.sampled_from(
    ["..", ".", "", "PetImages", "Cat", "Dog", "cat", "cat.1.jpg", "a.jpg", "FOLDER", "\\", "C:", "~", "\n", " "]
)
NAMES = st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=6).map("/".join).filter(bool)


@settings(max_examples=100)
@given(name=NAMES, kind=st.sampled_from(["zip", "tar"]))
@example(name="FOLDER/evil.jpg", kind="zip")
@example(name="PetImages/Cat/a.jpg", kind="tar")
def test_no_name_leads_out(name: str, kind: str) -> None:
    assume(kind != "zip" or not name.startswith("\0"))  # zipfile cannot write such a member, as it ends names at a NUL
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that is used twice
        folder = Path(temporary)
        names = {"PetImages/Cat/0.jpg": b"", "PetImages/Dog/0.jpg": b"", name.replace("FOLDER", temporary): b""}
        source = pack(kind, names, folder)
        files = 0
        with contextlib.suppress(PipelineError):
            files = sum(unpack_photos(source, folder / "inner/raw").classes.values())
        source.unlink()
        places = [path.relative_to(folder).parts for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
        assert len(places) == files
        assert all(place[:3] == ("inner", "raw", "PetImages") and len(place) == 5 for place in places)
