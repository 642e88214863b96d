# SPDX-License-Identifier: GPL-3.0-or-later
"""Decoding of photos: every kind that cameras and editors write, and every way in which a file can be bad."""

from __future__ import annotations

import hashlib
import io
import math
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from backend.errors import GanfitError
from backend.photo import Photo, load_photo

ORIENTATION, EXIF_IFD, FOCAL_35MM, EXIF_WIDTH, EXIF_HEIGHT = 0x0112, 0x8769, 0xA405, 0xA002, 0xA003


def gradient(width: int = 96, height: int = 72) -> np.ndarray:
    """(H, W, 3) uint8: red grows to the right, green downwards, blue is a smooth wave; no two corners are alike."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return (np.stack([x, y, 0.5 + 0.4 * np.sin(4 * x + 3 * y)], -1) * 255).round().astype(np.uint8)


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **arguments) -> bytes:
    stream = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(stream, kind, **arguments)
    return stream.getvalue()


def fails(source, code: str) -> GanfitError:
    with pytest.raises(GanfitError) as caught:
        load_photo(source)
    assert caught.value.code == code
    assert caught.value.message.endswith(".") and "\n" not in caught.value.message and caught.value.hint
    return caught.value


def test_png_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "a photo äöü.png"
    path.write_bytes(encode(gradient()))
    photo = load_photo(path)
    assert np.array_equal(photo.image, gradient())
    assert photo.image.dtype == np.uint8 and photo.image.flags.c_contiguous and photo.image.flags.writeable
    assert photo.name == "a photo äöü.png" and photo.size == (96, 72) and photo.warnings == ()
    assert photo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert photo.focal_35mm is None and photo.focal_px is None


# What a viewer has to do for each orientation (EXIF 2.32, 4.6.4.A): rotations are clockwise.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.rot90(np.fliplr(a), 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.fliplr(a), -1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    arguments = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.get(kind, {})
    photo = load_photo(encode(gradient(), kind, exif=exif, **arguments))
    expected = UPRIGHT[orientation](gradient()).astype(int)
    assert photo.image.shape == expected.shape
    assert np.abs(photo.image - expected).max() <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientation_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert np.array_equal(load_photo(encode(gradient(), exif=exif)).image, gradient())


def test_grey() -> None:
    grey = gradient()[..., 0]
    photo = load_photo(encode(grey))
    assert np.array_equal(photo.image, np.repeat(grey[..., None], 3, -1)) and photo.mode == "L"


def test_one_bit() -> None:
    bits = gradient()[..., 0] > 127
    photo = load_photo(encode(Image.fromarray(bits)))
    assert np.array_equal(photo.image[..., 1], bits * np.uint8(255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_cut(kind: str) -> None:
    values = np.linspace(0, 65535, 96 * 72).reshape(72, 96).round().astype(np.uint16)
    photo = load_photo(encode(values, kind))
    assert np.abs(photo.image[..., 0] - values / 257.0).max() <= 0.5 + 1e-4
    assert photo.mode.startswith("I;16")


def test_16_bit_colour_png() -> None:
    """Written chunk by chunk, as Pillow cannot write it (PNG specification, 11.2.2)."""
    import struct
    import zlib

    image = (np.random.default_rng(0).random((80, 80, 3)) * 65535).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in image)

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", 80, 80, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.abs(load_photo(data).image - image / 257.0).max() <= 1.0


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_float_tiff(white: float) -> None:
    values = np.linspace(0, white, 96 * 72, dtype=np.float32).reshape(72, 96)
    photo = load_photo(encode(values, "TIFF"))
    assert np.abs(photo.image[..., 2] - values / white * 255).max() <= 0.51
    assert "white" in photo.warnings[0]


def test_float_tiff_of_nan_is_damaged() -> None:
    fails(encode(np.full((80, 80), np.nan, np.float32), "TIFF"), "photo_damaged")


def test_alpha_is_laid_over_white_and_said() -> None:
    alpha = np.tile(np.linspace(0, 255, 96).round().astype(np.uint8), (72, 1))
    photo = load_photo(encode(np.dstack([gradient(), alpha])))
    weight = alpha[..., None] / 255.0
    expected = gradient() * weight + 255.0 * (1 - weight)
    assert np.abs(photo.image - expected).max() <= 0.51
    assert any("transparent" in note for note in photo.warnings)


def test_opaque_alpha_is_not_mentioned() -> None:
    photo = load_photo(encode(np.dstack([gradient(), np.full((72, 96), 255, np.uint8)])))
    assert np.array_equal(photo.image, gradient()) and not photo.warnings


def test_grey_with_alpha() -> None:
    grey = gradient()[..., 0]
    picture = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (96, 72), 128)])
    photo = load_photo(encode(picture))
    expected = grey * (128 / 255) + 255 * (1 - 128 / 255)
    assert np.abs(photo.image[..., 0] - expected).max() <= 1.0


def test_palette_with_transparent_index() -> None:
    picture = Image.new("P", (96, 72), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (48, 0, 96, 72))
    photo = load_photo(encode(picture, transparency=0))
    assert photo.image[10, 10].tolist() == [255, 255, 255] and photo.image[10, 80].tolist() == [0, 0, 255]


def test_palette() -> None:
    picture = Image.fromarray(gradient()).quantize(64)
    assert np.array_equal(load_photo(encode(picture)).image, np.asarray(picture.convert("RGB")))


def test_cmyk_jpeg() -> None:
    photo = load_photo(encode(Image.fromarray(gradient()).convert("CMYK"), "JPEG", quality=98, subsampling=0))
    assert np.abs(photo.image.astype(int) - gradient()).mean() < 3
    assert photo.mode == "CMYK" and "CMYK" in photo.warnings[0]


def wide_gamut_profile() -> bytes:
    """An ICC v2 matrix profile with the primaries of Adobe RGB (1998) and gamma 2.2, tag by tag (ICC.1:2001)."""
    import struct

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.19921875 * 256)) + b"\0\0"
    text = b"Wide\0"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * (8 + 3 + 67)
    tags = {  # colorants adapted to D50, from the Adobe RGB (1998) specification, annex
        b"desc": desc + b"\0" * (-len(desc) % 4),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    start, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(content))
        body += content
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ") + b"\0" * 12 + b"acsp"
    header += b"\0" * (68 - len(header)) + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    return header + b"\0" * (128 - len(header)) + struct.pack(">I", len(tags)) + table + body


def adobe_to_srgb(image: np.ndarray) -> np.ndarray:
    """The conversion in float, from the colorants and the sRGB curve (IEC 61966-2-1), values 0..255."""
    linear = (image / 255.0) ** 2.19921875
    adobe = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
    srgb = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
    linear = np.clip(linear @ (np.linalg.inv(srgb) @ adobe).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_colour_profile_is_converted_to_srgb(kind: str) -> None:
    skin = np.array([[[200, 150, 130], [120, 80, 60], [120, 150, 90], [40, 40, 40]]], np.uint8)
    image = np.kron(skin, np.ones((80, 32, 1), np.uint8))
    arguments = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    photo = load_photo(encode(image, kind, icc_profile=wide_gamut_profile(), **arguments))
    expected = adobe_to_srgb(image.astype(float))
    assert np.abs(expected - image).max() > 10, "the profile has to matter"
    error = np.abs(photo.image - expected)[:, 8::32]
    assert error.max() <= (4 if kind == "JPEG" else 2.0)


def test_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = load_photo(encode(gradient(), icc_profile=profile))
    assert np.abs(photo.image.astype(int) - gradient()).max() <= 1 and not photo.warnings


@pytest.mark.parametrize("profile", [b"no profile at all", wide_gamut_profile()[:200], b"\0" * 600])
def test_broken_profile_is_ignored_and_said(profile: bytes) -> None:
    photo = load_photo(encode(gradient(), icc_profile=profile))
    assert np.array_equal(photo.image, gradient()) and "profile" in photo.warnings[0]


def test_rgb_profile_on_a_grey_photo() -> None:
    photo = load_photo(encode(gradient()[..., 0], icc_profile=wide_gamut_profile()))
    assert np.ptp(photo.image.astype(int), axis=-1).max() <= 2


def exif_with_focal(focal: int, size: tuple[int, int] | None = None) -> Image.Exif:
    exif = Image.Exif()
    camera = exif.get_ifd(EXIF_IFD)
    camera[FOCAL_35MM] = focal
    if size:
        camera[EXIF_WIDTH], camera[EXIF_HEIGHT] = size
    return exif


def test_focal_length_from_exif() -> None:
    photo = load_photo(encode(np.zeros((200, 300, 3), np.uint8), "JPEG", exif=exif_with_focal(50, (6000, 4000))))
    assert photo.focal_35mm == 50.0
    # A 50 mm lens on 36x24 mm film sees 2 atan(12 / 50) = 26.99 degrees vertically.
    assert math.degrees(2 * math.atan(100 / photo.focal_px)) == pytest.approx(26.99, abs=0.01)


@pytest.mark.parametrize("focal", [0, 1, 60000])
def test_absurd_focal_length_is_ignored(focal: int) -> None:
    assert load_photo(encode(gradient(), "JPEG", exif=exif_with_focal(focal))).focal_35mm is None


def test_focal_length_of_a_cropped_photo_is_ignored() -> None:
    photo = load_photo(encode(np.zeros((200, 200, 3), np.uint8), "JPEG", exif=exif_with_focal(50, (6000, 4000))))
    assert photo.focal_35mm is None and "cropped" in photo.warnings[0]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    first, second = Image.new("RGB", (80, 80), (200, 10, 10)), Image.new("RGB", (80, 80), (10, 200, 10))
    photo = load_photo(encode(first, kind, save_all=True, append_images=[second]))
    assert np.abs(photo.image[40, 40].astype(int) - [200, 10, 10]).max() <= 8 and "frames" in photo.warnings[0]


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "JPEG2000", "BMP", "PPM"])
def test_other_formats(kind: str) -> None:
    if kind in ("WEBP", "AVIF") and not features.check(kind.lower()):
        pytest.skip(f"this Pillow has no {kind}")
    photo = load_photo(encode(gradient(), kind, **({"quality": 95} if kind in ("WEBP", "AVIF") else {})))
    assert np.abs(photo.image.astype(int) - gradient()).mean() < 3


def test_heic() -> None:
    """With the plugin the photo is decoded, without it the error names the plugin."""
    header = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100
    try:
        import pillow_heif
    except ImportError:
        assert "pillow-heif" in fails(header, "photo_format").message
        return
    fails(header, "photo_damaged")
    pillow_heif.register_heif_opener()
    for orientation in (1, 6, 8):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        photo = load_photo(encode(gradient(), "HEIF", quality=95, exif=exif.tobytes()))
        expected = UPRIGHT[orientation](gradient()).astype(int)
        assert photo.image.shape == expected.shape and np.abs(photo.image - expected).mean() < 3


def test_missing_folder_empty_and_text(tmp_path: Path) -> None:
    assert str(tmp_path / "no.jpg") in fails(tmp_path / "no.jpg", "photo_missing").message
    fails(tmp_path / "no" / "no.jpg", "photo_missing")
    assert "batch" in fails(tmp_path, "photo_is_folder").hint
    (tmp_path / "empty.jpg").touch()
    fails(tmp_path / "empty.jpg", "photo_empty")
    fails(b"", "photo_empty")
    (tmp_path / "text.jpg").write_text("not a photo\n" * 100)
    fails(tmp_path / "text.jpg", "photo_format")
    fails(tmp_path / "text.jpg" / "below.jpg", "photo_missing")
    fails("nul\0byte.jpg", "photo_unreadable")


def test_device_and_pipe_are_not_read(tmp_path: Path) -> None:
    if os.path.exists("/dev/zero"):
        fails("/dev/zero", "photo_format")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        fails(tmp_path / "pipe.jpg", "photo_format")


def test_unreadable(tmp_path: Path) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("root reads every file")
    path = tmp_path / "secret.png"
    path.write_bytes(encode(gradient()))
    path.chmod(0)
    fails(path, "photo_unreadable")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9])
def test_truncated(kind: str, part: float) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (120, 160, 3), np.uint8)
    data = encode(noise, kind)
    with pytest.raises(GanfitError) as caught:
        load_photo(data[: int(len(data) * part)])
    assert caught.value.code in ("photo_damaged", "photo_format")


@pytest.mark.parametrize("size", [(1, 1), (63, 400), (400, 10)])
def test_tiny(size: tuple[int, int]) -> None:
    assert f"{size[0]}x{size[1]}" in fails(encode(Image.new("RGB", size)), "photo_too_small").message


@pytest.mark.parametrize("size", [(12300, 12300), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    import struct
    import zlib

    data = bytearray(encode(Image.new("RGB", (100, 100))))
    data[16:24] = struct.pack(">II", *size)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    fails(bytes(data), "photo_too_large")


HUGE = """
import resource, sys
import numpy as np
from PIL import Image
from backend.photo import load_photo
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
photo = load_photo(sys.argv[1])
small, factors = photo.reduced(2048)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert photo.size == (10000, 10000) and max(small.shape) == 2048, (photo.size, small.shape)
print(peak // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs")
def test_100_megapixels_need_little_memory(tmp_path: Path) -> None:
    path, exif = tmp_path / "huge.jpg", Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (10000, 10000), (200, 150, 130)).save(path, exif=exif)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HUGE), str(path)], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1500, f"{done.stdout} MiB"


ROOT = Path(__file__).resolve().parent.parent


def test_reduced_keeps_coordinates() -> None:
    photo = Photo(gradient(400, 300), "x", "0")
    small, (along, down) = photo.reduced(100)
    assert small.shape == (75, 100, 3) and (along, down) == (0.25, 0.25)
    # Red is linear in x: the pixel centre i + 0.5 of the copy lies at (i + 0.5) / factor of the photo.
    x = (np.arange(100) + 0.5) / along - 0.5
    assert np.abs(small[40, 5:95, 0] - 255 * x[5:95] / 399).max() <= 1.0
    same, factors = photo.reduced(1000)
    assert np.array_equal(same, photo.image) and factors == (1.0, 1.0)


def test_png_returns_the_same_pixels() -> None:
    photo = load_photo(encode(gradient(), "JPEG"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(photo.png()))), photo.image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "AVIF", "JPEG2000"])
def test_mutations_never_crash(kind: str) -> None:
    """Bytes flipped, cut, doubled and overwritten at random: a photo comes out or a GanfitError, nothing else."""
    if kind in ("WEBP", "AVIF") and not features.check(kind.lower()):
        pytest.skip(f"this Pillow has no {kind}")
    exif = exif_with_focal(50)
    exif[ORIENTATION] = 6
    takes_metadata = kind in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF")
    arguments = {"exif": exif, "icc_profile": wide_gamut_profile()} if takes_metadata else {}
    data, draw = encode(gradient(), kind, **arguments), random.Random(kind)
    for _ in range(40):
        broken = bytearray(data)
        for _ in range(draw.randint(1, 12)):
            place = draw.randrange(len(broken)) if draw.random() < 0.5 else draw.randrange(min(700, len(broken)))
            action = draw.randrange(4)
            if action == 0:
                broken[place] ^= 1 << draw.randrange(8)
            elif action == 1:
                broken[place] = draw.choice((0, 255, 127, 128))
            elif action == 2:
                del broken[place : place + draw.randint(1, 40)]
            else:
                broken[place:place] = broken[place : place + draw.randint(1, 40)]
            broken = broken or bytearray(b"\0")
        try:
            photo = load_photo(bytes(broken))
        except GanfitError as error:
            assert error.code.startswith("photo_"), error
        else:
            assert photo.image.dtype == np.uint8 and photo.image.ndim == 3 and photo.image.shape[2] == 3
