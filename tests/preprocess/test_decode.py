"""Decoding: every format and pixel format to upright RGB, everything else to a reason."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.preprocess import decode as decode_module
from pipeline.preprocess.decode import EXIF_ORIENTATION, Refused, decode
from tests.preprocess.audits import encoded, exif, picture

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data).image)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF"])
def test_known_formats_decode_whatever_they_are_called(format_name: str) -> None:
    options = {"lossless": True} if format_name == "WEBP" else {}
    decoded = decode(encoded(picture(), format_name, **options))
    assert decoded.format == format_name
    assert np.asarray(decoded.image).dtype == np.uint8
    difference = np.abs(np.asarray(decoded.image).astype(int) - np.asarray(picture()).astype(int))
    assert difference.mean() < (12 if format_name in ("JPEG", "GIF", "HEIF", "AVIF") else 1e-9)


def test_a_multi_picture_jpeg_gives_its_first_picture_and_no_note() -> None:
    data = encoded(picture(), "MPO", save_all=True, append_images=[picture(seed=1)], quality=95)
    decoded = decode(data)
    assert (decoded.format, decoded.notes) == ("MPO", ())
    assert np.array_equal(decoded.image, pixels(encoded(picture(), "JPEG", quality=95)))


RUBBISH = b"\xd0\xcf\x11\xe0" + bytes(600)


@pytest.mark.parametrize("data", [*(encoded(picture(), name) for name in ("PPM", "ICO", "PCX")), RUBBISH, b""])
def test_what_is_no_photo_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match="^not a photo in a known format$" if data else "^empty file$"):
        decode(data)


def test_cmyk_is_converted_without_a_profile() -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    decoded = decode(encoded(Image.frombytes("CMYK", (5, 1), inks.tobytes()), "TIFF"))
    expected = [[255, 255, 255], [0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0]]
    assert np.asarray(decoded.image)[0].tolist() == expected
    assert (decoded.mode, decoded.notes) == ("CMYK", ("CMYK converted",))


def test_a_cmyk_jpeg_looks_like_the_rgb_it_was_made_from() -> None:
    decoded = decode(encoded(picture().convert("CMYK"), "JPEG", quality=95))
    difference = np.abs(np.asarray(decoded.image).astype(int) - np.asarray(picture()).astype(int))
    assert decoded.mode == "CMYK"
    assert difference.mean() < 12


def test_a_palette_is_expanded_and_its_transparent_entry_becomes_white() -> None:
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert pixels(encoded(image, "PNG"))[0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    transparent = decode(encoded(image, "PNG", transparency=1))
    assert np.asarray(transparent.image)[0].tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]
    assert transparent.notes == ("transparency laid over white",)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    image = Image.new(mode, (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (100,) * (len(mode) - 1) + (alpha,))
    half = pytest.approx((100 * 128 + 255 * 127) / 255, abs=1)
    assert pixels(encoded(image, "PNG"))[0, :, 0].tolist() == [255, half, 100]


@pytest.mark.parametrize("data", [encoded(picture(), name) for name in ("HEIF", "AVIF")], ids=["HEIF", "AVIF"])
def test_heic_and_avif_are_told_apart_where_the_brand_leaves_it_open(data: bytes) -> None:
    assert np.array_equal(pixels(data[:8] + b"mif1" + data[12:]), pixels(data))


@pytest.mark.parametrize("bits", [8, 10, 12, 15])
def test_16_bit_grey_that_leaves_upper_bits_empty_keeps_its_brightness(bits: int) -> None:
    values = np.linspace(0, 2**bits - 1, 1200).astype(np.uint16).reshape(30, 40)
    decoded = decode(encoded(Image.fromarray(values), "PNG"))
    assert np.asarray(decoded.image).mean() == pytest.approx(127.5, abs=1)
    assert decoded.notes == (f"16-bit scaled to 8: {bits} of them are used",)


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_to_8(format_name: str) -> None:
    values = np.array([[0, 257 * 77, 32768, 65535]], dtype=np.uint16)
    decoded = decode(encoded(Image.fromarray(values), format_name))
    assert np.asarray(decoded.image)[0].tolist() == [[0] * 3, [77] * 3, [128] * 3, [255] * 3]
    assert decoded.notes == ("16-bit scaled to 8",)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_needs_no_note(mode: str) -> None:
    decoded = decode(encoded(picture().convert(mode), "PNG"))
    assert decoded.notes == ()
    assert np.array_equal(decoded.image, np.asarray(picture().convert(mode).convert("RGB")))


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_pixels_without_an_agreed_range_are_refused(mode: str) -> None:
    data = encoded(Image.new(mode, (4, 4)), "TIFF")
    with pytest.raises(Refused, match=f"^unsupported pixel format: {mode}$"):
        decode(data)


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames_counts(format_name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format_name == "WEBP" else {}
    decoded = decode(encoded(frames[0], format_name, save_all=True, append_images=frames[1:], **options))
    assert np.asarray(decoded.image)[4, 4].tolist() == [255, 0, 0]
    assert "first frame of several" in decoded.notes


@pytest.mark.parametrize("orientation", [3, 6])
def test_heic_is_turned_once(orientation: int) -> None:
    image = picture()
    # The encoder puts it into the container too, as phones do.
    image.info["exif"] = exif(EXIF_ORIENTATION, orientation).tobytes()
    expected = UPRIGHT[orientation](np.asarray(picture()).astype(int))
    assert np.abs(pixels(encoded(image, "HEIF")) - expected).mean() < 12


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
@pytest.mark.parametrize("written", [*range(1, 9), 42])
def test_exif_orientation_is_applied_once_and_one_that_does_not_exist_is_ignored(format_name: str, written: int) -> None:
    decoded = decode(encoded(picture(), format_name, exif=exif(EXIF_ORIENTATION, written)))
    orientation = written if written in UPRIGHT else 1
    assert np.array_equal(decoded.image, UPRIGHT[orientation](np.asarray(picture())))
    assert decoded.orientation == orientation
    assert decoded.notes == (() if orientation == 1 else ("EXIF orientation applied",))


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 40 * 30)
    assert decode(encoded(picture(), "PNG")).image.size == (40, 30)
    with pytest.raises(Refused, match=r"^too many pixels: 41 x 30$"):
        decode(encoded(picture(41), "PNG"))


@pytest.mark.parametrize("format_name", ["JPEG", "MPO"])
def test_a_jpeg_of_too_many_pixels_is_read_at_a_smaller_scale(format_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(400, 300), format_name)
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 400 * 300 - 1)
    decoded = decode(data)
    assert decoded.image.size == (200, 150)
    assert decoded.notes == ("read at a smaller scale: 1/2 of 400 x 300",)
    expected = np.asarray(picture(400, 300).reduce(2)).astype(int)
    assert np.abs(np.asarray(decoded.image) - expected).mean() < 4
    with pytest.raises(Refused, match=r"^truncated"):
        decode(data[: len(data) // 2] + b"\xff\xd9")
    monkeypatch.setattr(decode_module, "MAX_JPEG_PIXELS", 400 * 300 - 1)
    with pytest.raises(Refused, match=r"^too many pixels: 400 x 300$"):
        decode(data)


@pytest.mark.parametrize(("width", "height"), [(501, 10), (10, 501), (40_000, 1)])
def test_lines_are_refused(width: int, height: int) -> None:
    with pytest.raises(Refused, match=rf"^too long and thin: {width} x {height}$"):
        decode(encoded(Image.new("L", (width, height)), "PNG"))


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP"])
def test_a_png_with_megabytes_of_text_or_profile_is_a_photo(kind: str) -> None:
    info = PngInfo()
    if kind == "zTXt":
        info.add_text("Comment", "x" * 2_000_000, zip=True)
    elif kind == "iTXt":
        info.add_itxt("Comment", "x" * 2_000_000, zip=True)
    data = encoded(picture(), "PNG", pnginfo=info, icc_profile=bytes(2_000_000) if kind == "iCCP" else None)
    assert kind.encode() in data
    assert np.array_equal(pixels(data), np.asarray(picture()))


def test_a_decompression_bomb_is_refused() -> None:
    data = bytearray(encoded(picture(), "BMP"))
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(Refused, match=r"^too many pixels"):
        decode(bytes(data))


@pytest.mark.parametrize("progressive", [False, True])
@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60)
def test_a_jpeg_cut_off_anywhere_is_refused(progressive: bool, share: float) -> None:
    data = encoded(picture(), "JPEG", progressive=progressive)
    with pytest.raises(Refused):
        decode(data[: int(share * len(data))])


@pytest.mark.parametrize("format_name", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "HEIF", "AVIF"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_other_photos_cut_off_are_refused(format_name: str, share: float) -> None:
    data = encoded(picture(), format_name)
    with pytest.raises(Refused):
        decode(data[: int(share * len(data))])


@pytest.mark.parametrize("tail", [b"", bytes(99), bytes(range(1, 200))], ids=["nothing", "zeros", "rubbish"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_jpeg_that_ends_early_in_good_order_is_refused(mode: str, share: float, tail: bytes) -> None:
    data = encoded(picture(400, 300).convert(mode), "JPEG", quality=90)
    with pytest.raises(Refused, match=r"^truncated: the coded data end before the picture does$"):
        decode(data[: int(share * len(data))] + b"\xff\xd9" + tail)


def test_a_jpeg_padded_with_zeros_is_refused() -> None:
    data = encoded(picture(400, 300), "JPEG")
    with pytest.raises(Refused, match=r"^truncated"):
        decode(data[: len(data) // 2] + bytes(20 * len(data)))


def test_a_photo_that_is_grey_at_the_bottom_is_complete() -> None:
    image = picture(64, 64)
    image.paste((128, 128, 128), (0, 32, 64, 64))
    decoded = decode(encoded(image, "JPEG", quality=95))
    assert decoded.notes == ()
    assert np.asarray(decoded.image)[60, 60].tolist() == [128] * 3


def test_stray_bytes_are_noted_and_do_not_change_the_photo() -> None:
    data = encoded(picture(), "JPEG")
    clean = decode(data)
    assert clean.notes == ()
    for stray, note in [
        (data + b"rubbish", "bytes after the end marker"),
        (data[:20] + b"\0\0\0" + data[20:], "stray bytes between segments"),
    ]:
        decoded = decode(stray)
        assert decoded.notes == (note,)
        assert np.array_equal(decoded.image, clean.image)
