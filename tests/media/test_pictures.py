"""Pictures are read as viewers show them: upright, at their brightness, in their colours."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageCms

from codi2 import media
from codi2.errors import MediaError

from .made import encoded

FILES = Path(__file__).parent / "files"


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(media.load_image(data).pixels).astype(int)


def halves(size=(8, 4)) -> PILImage.Image:
    """Red on the left, blue on the right."""
    picture = PILImage.new("RGB", size, (220, 30, 30))
    picture.paste((30, 30, 220), (size[0] // 2, 0, *size))
    return picture


def test_a_phones_picture_of_tiles_is_read_whole_and_upright():
    pytest.importorskip("pillow_heif")
    grid = media.load(FILES / "grid_rot.heic")
    assert grid.modality == "image" and grid.pixels.size == (1000, 1000)
    corners = [grid.pixels.getpixel(at) for at in ((100, 100), (900, 100), (100, 900), (900, 900))]
    blue, red, yellow, green = (np.argmax(corner) for corner in corners)
    assert (blue, red, green) == (2, 0, 1) and yellow in (0, 1) and min(corners[2][:2]) > 200
    photo = media.load(FILES / "photo_rot.heic")
    assert photo.pixels.size == (640, 480)
    assert photo.pixels.getpixel((320, 50))[0] > 200 and photo.pixels.getpixel((320, 430))[2] > 200


@pytest.mark.parametrize("name", ["grid_rot.heic", "photo_rot.heic"])
def test_without_its_reader_a_heic_is_one_sentence(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MediaError, match=rf"{name} is a HEIC picture; .*pip install 'codi2\[heif\]'"):
        media.load(FILES / name)


def test_a_broken_heic_is_one_sentence():
    pytest.importorskip("pillow_heif")
    whole = (FILES / "photo_rot.heic").read_bytes()
    for size in (100, 700, len(whole) - 200):
        with pytest.raises(MediaError) as caught:
            media.load(whole[:size], "cut.heic")
        assert str(caught.value).startswith("cut.heic")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_of_each_format_is_upright(kind, orientation):
    wanted = halves((16, 8))
    wanted.paste((30, 220, 30), (0, 0, 16, 4))
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)  # Pillow's transposition that undoes it
    undone = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    stored = wanted if turn is None else wanted.transpose(PILImage.Transpose(turn))
    assert turn is None or stored.transpose(PILImage.Transpose(undone)).tobytes() == wanted.tobytes()
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    options |= (
        {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": "4:4:4"} if kind == "AVIF" else {}
    )
    converted = pixels(encoded(stored, kind, exif=exif, **options))
    assert converted.shape == (8, 16, 3) and np.abs(converted - np.asarray(wanted, int)).max() < 40


def tiff(values: np.ndarray, photometric: int = 1, bits: int | None = None) -> bytes:
    """A grey TIFF of one strip."""
    values = np.ascontiguousarray(values)
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    height, width = values.shape
    tags = [
        (256, width),
        (257, height),
        (258, bits or values.itemsize * 8),
        (259, 1),
        (262, photometric),
        (273, 8 + 2 + 12 * 10 + 4),
    ]
    tags += [(277, 1), (278, height), (279, values.nbytes), (339, kind)]
    body = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (256, 257, 273, 278, 279) else 3, 1, value) for tag, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(4) + values.tobytes()


RAMP = np.linspace(0, 1, 64).reshape(4, 16)


@pytest.mark.parametrize(
    ("values", "top"),
    [
        (RAMP.astype(np.float32), 1),
        ((RAMP * 255).astype(np.float32), 255),
        ((RAMP * 65_535).astype(np.float32), 65_535),
        ((RAMP * 255).astype(np.int32), 255),
        ((RAMP * 255).astype(np.uint32), 255),
        ((RAMP * 4095).astype(np.int32), 4095),
        ((RAMP * 65_535).astype(np.int32), 65_535),
        ((RAMP * (2**31 - 1)).astype(np.int32), 2**31 - 1),
        ((RAMP * 65_535).astype(np.uint16), 65_535),
        ((RAMP * 255).astype(np.uint8), 255),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
def test_wide_numbers_of_a_tiff_are_scaled_by_their_range(values, top):
    converted = pixels(tiff(values))
    assert np.abs(converted[..., 0] - values / top * 255).max() <= 1


def test_a_dark_16_bit_picture_stays_dark_and_zero_may_be_white():
    assert pixels(encoded(PILImage.fromarray(np.full((4, 4), 255, np.uint16)))).max() == 1
    white_is_zero = pixels(tiff((RAMP * 65_535).astype(np.uint16), photometric=0))
    assert (white_is_zero[0, 0, 0], white_is_zero[-1, -1, 0]) == (255, 0)


@pytest.mark.parametrize(
    "values", [RAMP * 1000 - 500, np.full((4, 16), np.nan), np.full((4, 16), 3e9), np.full((4, 16), np.inf)], ids=str
)
def test_numbers_that_are_no_brightness_are_one_sentence(values):
    with pytest.raises(MediaError, match=r"odd\.tif has values from .* save it with 8 or 16 bits"):
        media.load(tiff(values.astype(np.float32)), "odd.tif")


def matrix_profile(gamma: float, swapped: bool = False) -> bytes:
    """An RGB profile of sRGB's primaries with a curve of its own, `swapped`: red and blue exchanged."""

    def s15(value: float) -> bytes:
        return struct.pack(">i", round(value * 65_536))

    primaries = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]
    red, green, blue = primaries[::-1] if swapped else primaries
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    values = {b"wtpt": b"XYZ " + bytes(4) + s15(0.9642) + s15(1.0) + s15(0.8249)}
    values |= {
        tag: b"XYZ " + bytes(4) + b"".join(map(s15, xyz))
        for tag, xyz in {b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue}.items()
    }
    values |= {tag: curve for tag in (b"rTRC", b"gTRC", b"bTRC")}
    values[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78)
    values[b"cprt"] = b"text" + bytes(4) + b"x\0\0\0"
    table, body = struct.pack(">I", len(values)), b""
    for tag, value in values.items():
        table += tag + struct.pack(">II", 128 + 4 + 12 * len(values) + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = bytearray(128)
    header[:4] = struct.pack(">I", 128 + len(table) + len(body))
    header[8:24] = struct.pack(">I", 0x02100000) + b"mntrRGB XYZ "
    header[36:40] = b"acsp"
    header[68:80] = s15(0.9642) + s15(1.0) + s15(0.8249)
    return bytes(header) + table + body


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_profile_is_brought_to_srgb(kind):
    options = {"quality": 100} if kind in ("JPEG", "AVIF", "WEBP") else {}
    swapped = encoded(
        PILImage.new("RGB", (8, 8), (220, 30, 60)), kind, icc_profile=matrix_profile(2.2, True), **options
    )
    assert np.abs(pixels(swapped)[4, 4] - [60, 30, 220]).max() < 16
    linear = encoded(PILImage.new("RGB", (8, 8), (55, 55, 55)), kind, icc_profile=matrix_profile(1.0), **options)
    assert np.abs(pixels(linear)[4, 4] - 128).max() < 6


def test_profiles_of_other_modes_and_with_transparency():
    profile = matrix_profile(1.0)
    clear = PILImage.new("RGBA", (4, 4), (55, 55, 55, 255))
    clear.putpixel((0, 0), (0, 0, 0, 0))
    for picture in (clear, clear.quantize()):
        converted = pixels(encoded(picture, icc_profile=profile))
        assert converted[0, 0].tolist() == [255, 255, 255] and np.abs(converted[2, 2] - 128).max() < 6
    assert pixels(encoded(PILImage.new("L", (4, 4), 55), icc_profile=profile))[0, 0, 0] == 55, "it is of colours"
    assert pixels(encoded(PILImage.new("RGB", (4, 4), (55, 1, 2)), icc_profile=b"junk"))[0, 0].tolist() == [55, 1, 2]


def test_pixels_in_srgb_stay_as_they_are_to_the_bit():
    noise = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (pixels(encoded(noise, icc_profile=profile)) == np.asarray(noise)).all()


def test_frames_of_an_animation_have_their_profile_and_orientation():
    exif = PILImage.Exif()
    exif[0x0112] = 6
    frames = [PILImage.new("RGB", (8, 4), (220, 30, 60 + n)) for n in range(3)]
    options = {"save_all": True, "append_images": frames[1:], "duration": 50, "exif": exif, "lossless": True}
    part = media.load(encoded(frames[0], "WEBP", icc_profile=matrix_profile(2.2, True), **options))
    assert part.modality == "video" and part.frames[2].size == (4, 8)
    assert np.abs(np.asarray(part.frames[1].getpixel((2, 2)), int) - [61, 30, 220]).max() < 16


def test_lab_and_cmyk_pictures_have_their_colours():
    change = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(PILImage.new("RGB", (8, 8), (200, 60, 30)), change)
    assert np.abs(pixels(encoded(lab, "TIFF"))[4, 4] - [200, 60, 30]).max() < 6
    ink = encoded(PILImage.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF", icc_profile=matrix_profile(2.2))
    assert np.abs(pixels(ink)[4, 4] - [255, 0, 0]).max() < 12, "a profile of other colours is passed over"
