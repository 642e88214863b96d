# SPDX-License-Identifier: GPL-3.0-or-later
"""A corpus of bad and odd image files, made here, through the decoder, the command line, a batch and the worker."""
from __future__ import annotations

import functools
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features
from test_photo import encode, gradient
from test_worker import Client

from backend import cli, protocol
from backend.errors import CODES, GanfitError
from backend.photo import load_photo

FORMATS = [kind for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
           if kind not in ("WEBP", "AVIF") or features.check(kind.lower())]  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent
SLOWEST_S = 20.0
"""No file may keep the decoder longer, even on a busy machine: it would be taken for hanging."""


def chunk(tag: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))


def png(width: int, height: int, body: bytes = b"", extra: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """A PNG out of its parts: any size may stand in the header, whatever the body holds."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def damaged() -> dict[str, bytes]:
    """Files of every format cut, flipped, zeroed, doubled and overwritten; the same ones each time."""
    found = {}
    for kind in FORMATS:
        data, draw = encode(gradient(), kind), random.Random(kind)
        for part in (0.01, 0.1, 0.3, 0.6, 0.9, 0.999):
            found[f"{kind} cut at {part:.1%}"] = data[: int(len(data) * part)]
        for number in range(8):
            broken = bytearray(data)
            for _ in range(1 + 3 * number):
                broken[draw.randrange(len(broken) if number % 2 else min(200, len(broken)))] ^= 1 << draw.randrange(8)
            found[f"{kind} bits flipped, {number}"] = bytes(broken)
        half = len(data) // 2
        found[f"{kind} zeroed from the middle"] = data[:half] + bytes(len(data) - half)
        found[f"{kind} zeroed at the front"] = bytes(8) + data[8:]
        found[f"{kind} doubled"] = data + data
        found[f"{kind} with a tail"] = data + b"<script>" * 500
        found[f"{kind} behind text"] = b"hello\n" + data
        found[f"{kind} of another's beginning"] = encode(gradient(), "GIF")[:20] + data[20:]
    return found


def bombs() -> dict[str, bytes]:
    """Headers that promise more than there is, and little files that unpack to much."""
    great, bomb, rows = 2**31 - 1, b"a\0\0" + zlib.compress(bytes(40 << 20)), bytes(72 * 289)
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0))
    jpeg = bytearray(encode(gradient(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65535, 65535)
    bmp = bytearray(encode(gradient(), "BMP"))
    gif = bytearray(encode(gradient(), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    tiff = bytearray(encode(gradient(), "TIFF"))
    loop = b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8)
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 500_000, zip=True)
    return {
        "PNG of 2^31 pixels a side": png(great, great),
        "PNG of no pixels": png(0, 0),
        "PNG one pixel high": png(100_000, 1, bytes(300_001)),
        "PNG of 30000 pixels a side": png(30_000, 30_000, bytes(5_000_000)),
        "PNG with a text bomb": png(96, 72, rows, chunk(b"zTXt", bomb)),
        "PNG with a profile bomb": png(96, 72, rows, chunk(b"iCCP", bomb)),
        "PNG with more pixels than rows": png(96, 72, bytes(5_000_000)),
        "PNG with fewer pixels than rows": png(96, 72, bytes(1000)),
        "PNG of an unknown colour type": png(96, 72, rows, colour=5),
        "PNG of an unknown depth": png(96, 72, rows, depth=7),
        "PNG with two headers": png(96, 72, rows, second),
        "PNG with a long comment": encode(gradient(), "PNG", pnginfo=text),
        "JPEG of 65535 pixels a side": bytes(jpeg),
        "GIF of 65535 pixels a side": bytes(gif),
        "BMP of negative height": bytes(bmp[:22] + struct.pack("<i", -72) + bmp[26:]),
        "BMP of 2^31 pixels": bytes(bmp[:18] + struct.pack("<ii", great, great) + bmp[26:]),
        "PPM of endless size": b"P6 99999999 99999999 255\n" + bytes(100),
        "PPM of text": b"P3 96 72 255\n" + b"12 " * 1000,
        "PPM of absurd white": b"P6 96 72 99999999\n" + bytes(96 * 72 * 6),
        "TIFF whose directory is itself": loop,
        "TIFF cut in its directory": bytes(tiff[:-60]),
        "TIFF whose strips lie outside": bytes(tiff).replace(struct.pack("<I", 8), struct.pack("<I", 0xFFFFFFF0)),
        "zeros": bytes(100_000),
        "one byte": b"\xff",
        "nothing": b"",
    }


def strangers() -> dict[str, bytes]:
    """Files that are no photos, some of which other programs would run."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("../../photo.png", encode(gradient()))

    class Runs:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.system, ("touch pickled",)

    return {
        "pickle": pickle.dumps(Runs()),
        "zip": archive.getvalue(),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n(touched) (w) file closefile\nshowpage\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>",
        "HTML": b"<!DOCTYPE html><img src=x onerror=alert(1)>",
        "shell script": b"#!/bin/sh\ntouch ran\n",
        "Windows program": b"MZ" + bytes(500),
        "icon": encode(gradient(), "ICO"),
        "npy": b"\x93NUMPY\x01\x00" + bytes(200),
        "JSON": json.dumps({"photo": "me.png"}).encode(),
        "UTF-16 text": "a photo".encode("utf-16"),
        "HEIC header alone": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    }


def odd() -> dict[str, bytes]:
    """Whole photos of rare kinds: these have to decode."""
    image, rng = Image.fromarray(gradient()), np.random.default_rng(0)
    wide = Image.fromarray((rng.random((72, 96)) * 65535).astype(np.uint16))
    frames = [Image.fromarray(np.roll(gradient(), 9 * i, 1)) for i in range(40)]
    found = {
        "grey": encode(image.convert("L")), "grey with alpha": encode(image.convert("LA")),
        "palette": encode(image.convert("P")), "palette GIF": encode(image.convert("P"), "GIF"),
        "alpha": encode(image.convert("RGBA")), "one bit": encode(image.convert("1")),
        "16 bits": encode(wide), "16 bits TIFF": encode(wide, "TIFF"),
        "32 bits TIFF": encode(wide.convert("I"), "TIFF"),
        "float TIFF": encode(Image.fromarray(rng.random((72, 96)).astype(np.float32)), "TIFF"),
        "CMYK JPEG": encode(image.convert("CMYK"), "JPEG"), "CMYK TIFF": encode(image.convert("CMYK"), "TIFF"),
        "LAB TIFF": encode(image.convert("LAB"), "TIFF"), "YCbCr TIFF": encode(image.convert("YCbCr"), "TIFF"),
        "animated GIF": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated PNG": encode(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "pages in a TIFF": encode(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "progressive JPEG": encode(image, "JPEG", progressive=True),
        "BMP of a palette": encode(image.convert("P"), "BMP"),
        "JPEG of quality 1": encode(image, "JPEG", quality=1),
    }  # fmt: skip
    draw = random.Random(1)
    for number in range(12):
        junk = b"Exif\0\0" + draw.randbytes(draw.choice((0, 4, 40, 4000)))
        found[f"EXIF junk, {number}"] = encode(image, ("JPEG", "PNG")[number % 2], exif=junk)
        found[f"profile junk, {number}"] = encode(image, ("JPEG", "PNG")[number % 2], icc_profile=draw.randbytes(200))
    for value in (0, 9, 255, 65535, "upright", 6.5, (6, 6)):
        exif = Image.Exif()
        exif[0x0112] = value
        try:
            found[f"orientation {value}"] = encode(image, "JPEG", exif=exif)
        except Exception:  # noqa: BLE001 - what Pillow does not write, no file can hold
            continue
    return found


@functools.cache
def corpus() -> dict[str, bytes]:
    """All of them by name."""
    return damaged() | bombs() | strangers() | odd()


def check(name: str, data: bytes) -> str:
    """Decodes a file: "ok", or the code of the error that a person would be shown."""
    start = time.monotonic()
    try:
        photo = load_photo(data, f"{name}.png")
    except GanfitError as error:
        assert error.code in CODES and (error.code.startswith("photo_") or error.code == "out_of_memory"), name
        assert error.message.endswith(".") and "\n" not in error.message and error.hint, (name, error.message)
        outcome = error.code
    else:
        assert photo.image.dtype == np.uint8 and photo.image.ndim == 3 and photo.image.shape[2] == 3, name
        assert min(photo.size) >= 64 and photo.image.flags.c_contiguous, name
        outcome = "ok"
    assert time.monotonic() - start < SLOWEST_S, name
    return outcome


def test_every_file_of_the_corpus_decodes_or_is_refused_in_a_sentence() -> None:
    outcomes = {name: check(name, data) for name, data in corpus().items()}
    assert len(outcomes) >= 200
    assert all(outcomes[name] == "ok" for name in odd()), {n: outcomes[n] for n in odd() if outcomes[n] != "ok"}
    refused = [name for name in strangers() if outcomes[name] == "ok"]
    assert not refused, "what is no photo is taken for one"
    assert sum(outcome == "ok" for outcome in outcomes.values()) < len(outcomes) - 80, "the corpus is hardly damaged"
    assert not Path("pickled").exists() and not Path("ran").exists()


FRONTS = [b"", *(encode(gradient(), kind)[:64] for kind in FORMATS)]


@given(data=st.binary(max_size=2000), front=st.sampled_from(FRONTS))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_bytes_decode_or_are_refused(data: bytes, front: bytes) -> None:
    """Random bytes, and random bytes behind the beginning of a real file."""
    check("random", front + data)


@given(st.sampled_from(FORMATS), st.floats(0, 1), st.binary(min_size=1, max_size=30), st.integers(0, 30))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_edit_of_a_photo_decodes_or_is_refused(kind: str, place: float, new: bytes, cut: int) -> None:
    """Some bytes of a real file replaced by others of another number."""
    data = encode(gradient(), kind)
    start = int(place * len(data))
    check(kind, data[:start] + new + data[start + cut :])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files that a program refuses before it looks for a face, under a suffix that is mostly the wrong one."""
    place = tmp_path_factory.mktemp("corpus")
    suffixes = (".jpg", ".png", ".tiff", ".webp")
    chosen = [name for number, name in enumerate({**bombs(), **strangers(), **damaged()}) if number % 5 == 0]
    files = {}
    for number, name in enumerate(chosen):
        if check(name, corpus()[name]) != "ok":
            files[name] = place / f"{number:03d}{suffixes[number % 4]}"
            files[name].write_bytes(corpus()[name])
    return files


def test_the_command_line_ends_with_a_sentence(folder: dict[str, Path], tmp_path: Path, capsys) -> None:
    for name, file in list(folder.items())[::2]:
        status = cli.main(["reconstruct", str(file), "--out", str(tmp_path / "out" / "me"), "--device", "cpu"])
        said = capsys.readouterr()
        code, _, message = said.err.splitlines()[-2].partition(": ")
        assert status == 1 and code in CODES and message.endswith("."), (name, said.err)
        assert "Traceback" not in said.err and said.out == "", name
    assert not (tmp_path / "out").exists() and not list(tmp_path.iterdir())


def test_a_batch_reports_every_one_of_them(folder: dict[str, Path], tmp_path: Path, capsys) -> None:
    source = next(iter(folder.values())).parent
    status = cli.main(["batch", str(source), "--out", str(tmp_path / "out"), "--device", "cpu", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert status == 1 and report["counts"] == {"failed": len(folder)}
    assert all(person["error"]["code"].startswith("photo_") for person in report["people"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["batch.csv", "batch.json"]


def test_the_worker_answers_and_goes_on(folder: dict[str, Path], tmp_path: Path) -> None:
    """Photos that cannot be decoded, then ones that can but show no face; nothing is written or traced back."""
    client = Client(tmp_path / "scratch")
    out = tmp_path / "out"
    faceless = {}
    for number, name in enumerate(list(odd())[::4]):
        faceless[name] = tmp_path / f"odd{number}.png"
        faceless[name].write_bytes(corpus()[name])
    try:
        for name, file in {**dict(list(folder.items())[1::2]), **faceless}.items():
            asked = {"photos": [str(file)], "out": str(out / "me"), "options": {"device": "cpu"}}
            answer = client.call(protocol.RECONSTRUCT, **asked)
            code = client.finished(answer["result"]["job_id"])["error"]["code"]
            assert code == "no_face" if name in faceless else code.startswith("photo_"), (name, code)
        assert "result" in client.call(protocol.HELLO, versions=[protocol.VERSION])
        assert "Traceback" not in client.text()
        assert not out.exists() and not list(client.scratch.glob("ganfit-*"))
    finally:
        assert client.close() == 0


NAMES = ["a\nb", "tab\there", "-rf", "--out", "quote'\"", "semi;colon && true", "$(touch ran)", "`id`", "%s%n",
         "a" * 200, "äöü 漢字 🙂", "..", "...", " . ", "CON", "x:y", "back\\slash", "..\\..\\up", "a..b", "~", "*?",
         os.fsdecode(b"no UTF-8 \xff\xfe")]  # fmt: skip


def test_names_of_photos_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    """Names with newlines, options, shell and path syntax: each gets a row, and nothing is written elsewhere."""
    source, out = tmp_path / "in", tmp_path / "deep" / "out"
    source.mkdir()
    photos = []
    for name in NAMES:
        photos.append(source / f"{name}.png")
        photos[-1].write_bytes(b"\x89PNG\r\n\x1a\n no photo")
    before = sorted(source.iterdir())
    command = ["batch", *map(str, photos), "--out", str(out), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-m", "backend", *command], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 1 and b"Traceback" not in done.stderr and b"photo_damaged" not in done.stderr, done.stderr
    assert done.stdout.count(b"failed") >= len(NAMES)
    report = json.loads((out / "batch.json").read_text())
    assert len(report["people"]) == len(NAMES)
    for person in report["people"]:
        name = person["name"]
        assert name and not set(name) & {"/", "\0"} and name not in (".", ".."), name
        assert (out / name).resolve().parent == out.resolve()
        assert person["error"]["code"] == "photo_damaged", person
    assert sorted(source.iterdir()) == before and sorted(p.name for p in tmp_path.iterdir()) == ["deep", "in"]
    assert sorted(p.name for p in out.iterdir()) == ["batch.csv", "batch.json"]


@pytest.mark.parametrize("name", ["a\0b.png", "\0", "a" * 5000, "\udcff.png"])
def test_paths_that_no_file_has(name: str, tmp_path: Path, capsys) -> None:
    assert cli.main(["reconstruct", name, "--out", str(tmp_path / "me"), "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert any(line.startswith(("photo_missing: ", "photo_unreadable: ")) for line in said.splitlines()), said
    assert "Traceback" not in said
