# SPDX-License-Identifier: GPL-3.0-or-later
"""Photos, their focal lengths and pins: the add-on's own functions, and the operators in real Blender."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_blender_folder import stand_in
from test_blender_import import run_blender

from backend.head import landmarks as backend_landmarks
from backend.photo import load_photo
from ganfit_blender import landmarks
from ganfit_blender.exif import focal_35mm


def photo(path: Path, focal: float | None = None, **options: object) -> Path:
    """A small JPEG, with the focal length in its EXIF block."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 90, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 1
    if focal is not None:
        exif.get_ifd(0x8769)[0xA405] = focal
    image.save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("focal", [8, 50, 85, 1200])
def test_focal_lengths_are_those_that_the_backend_reads(tmp_path: Path, focal: int) -> None:
    path = photo(tmp_path / "a.jpg", focal)
    assert focal_35mm(path) == load_photo(path).focal_35mm == focal


def test_focal_length_in_the_other_byte_order(tmp_path: Path) -> None:
    """A block written by hand, big-endian, the EXIF directory before the first one."""
    exif = b"\0\1" + b"\xa4\x05\0\3\0\0\0\1\0\x23\0\0" + b"\0\0\0\0"
    first = b"\0\1" + b"\x87\x69\0\4\0\0\0\1\0\0\0\x08" + b"\0\0\0\0"
    block = b"MM\0*" + (8 + len(exif)).to_bytes(4, "big") + exif + first
    data = b"Exif\0\0" + block
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0\0\4ab\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data + b"\xff\xda")
    assert focal_35mm(path) == 35


def test_files_without_a_focal_length_have_none(tmp_path: Path) -> None:
    good = photo(tmp_path / "good.jpg", 50).read_bytes()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no photo")
    photo(tmp_path / "without.jpg")
    photo(tmp_path / "absurd.jpg", 4000)
    for name in ("empty.jpg", "text.jpg", "without.jpg", "absurd.jpg", "missing.jpg", "."):
        assert focal_35mm(tmp_path / name) is None, name
    for length in range(0, len(good), 7):  # cut anywhere, it ends without an exception
        (tmp_path / "cut.jpg").write_bytes(good[:length])
        assert focal_35mm(tmp_path / "cut.jpg") in (None, 50)


def test_the_points_that_are_shown_are_the_backend_s() -> None:
    """Every iBUG point but the jaw's, and the outline: the numbers of the backend's own table."""
    lines = landmarks.CONTOURS
    assert lines["oval"][:-1] == backend_landmarks.FACE_OVAL
    still = set(backend_landmarks.IBUG_FROM_MEDIAPIPE[17:])
    assert {i for name, line in lines.items() if name != "oval" for i in line} == still
    assert len(set(landmarks.SHOWN)) == len(landmarks.SHOWN) == len(still | set(backend_landmarks.FACE_OVAL))


def test_pixels_and_view_coordinates() -> None:
    """The top left pixel corner is (0, 1) of the view, the bottom right (1, 0); there and back is the same."""
    size = (640, 480)
    assert landmarks.pixel_to_view((0, 0), size) == (0, 1)
    assert landmarks.pixel_to_view((640, 480), size) == (1, 0)
    assert landmarks.pixel_to_view((320, 120), size) == (0.5, 0.75)
    assert landmarks.view_to_pixel(landmarks.pixel_to_view((123.25, 45.5), size), size) == pytest.approx((123.25, 45.5))
    assert landmarks.clamped((-3.0, 500.0), size) == (0, 480)


def test_the_box_around_the_landmarks_is_the_view_to_zoom_to() -> None:
    """Pixels 100 to 300 of 400 across, 50 to 150 of 200 down, with a tenth more on every side."""
    low, high = landmarks.face_box([(100, 150), (300, 50), (200, 100)], (400, 200), margin=0.1)
    assert low == pytest.approx((0.25 - 0.05, 0.25 - 0.05)) and high == pytest.approx((0.75 + 0.05, 0.75 + 0.05))


def test_the_nearest_point_within_reach_is_hit() -> None:
    points = {4: (10.0, 10.0), 7: (14.0, 10.0), 9: (100.0, 100.0)}
    assert landmarks.hit_test(points, (11.0, 10.0), 5) == 4
    assert landmarks.hit_test(points, (13.0, 10.0), 5) == 7
    assert landmarks.hit_test(points, (14.0, 15.0), 5) == 7, "on the rim"
    assert landmarks.hit_test(points, (14.0, 15.1), 5) is None
    assert landmarks.hit_test({}, (0, 0), 5) is None


@dataclass
class Pin:
    index: int = 0
    x: float = 0.0
    y: float = 0.0


class Store(list):
    """What Blender's collections do."""

    def add(self) -> Pin:
        self.append(Pin())
        return self[-1]

    def remove(self, number: int) -> None:  # type: ignore[override]
        del self[number]


def test_pins_are_set_moved_and_removed() -> None:
    store = Store()
    landmarks.set_pin(store, 61, (1.0, 2.0))
    landmarks.set_pin(store, 4, (3.0, 4.0))
    landmarks.set_pin(store, 61, (5.0, 6.0))
    found = [[float(i), float(i)] for i in range(468)]
    shown = landmarks.shown_points(found, store)
    assert shown[61] == (5, 6) and shown[4] == (3, 4) and shown[10] == (10, 10)
    assert landmarks.pins_to_json(store, 1) == [{"view": 1, "index": 61, "x": 5.0, "y": 6.0},
                                                {"view": 1, "index": 4, "x": 3.0, "y": 4.0}]
    assert landmarks.remove_pin(store, 61) and not landmarks.remove_pin(store, 61) and len(store) == 1


@pytest.fixture(scope="module")
def report(bpy_python, extension_zip, tmp_path_factory) -> dict:
    if os.name == "nt":
        pytest.skip("the stand-in's Python is a shell script")
    from synthetic_bundle import make_bundle

    folder = tmp_path_factory.mktemp("photos")
    photos = [photo(folder / name, focal) for name, focal in (("a.jpg", 50), ("b.jpg", None), ("c.jpg", 28))]
    bundle = make_bundle(folder / "source", views=2)
    job = {"zip": str(extension_zip), "python": str(stand_in(folder)), "photos": list(map(str, photos)),
           "bundle": str(bundle), "out": str(folder)}
    run_blender(bpy_python, "photos.py", job, folder / "profile")
    return json.loads((folder / "report.json").read_text("utf-8")) | {"folder": str(folder)}


def test_the_list_shows_exif_and_can_be_ordered(report) -> None:
    assert report["focal"] == [50, 0, 28]
    assert report["order"] == ["a.jpg", "c.jpg", "b.jpg"] and report["end of list"] == "CANCELLED"


def test_reconstruct_sends_the_photos_that_are_on_and_focal_lengths_that_were_changed(report) -> None:
    asked = report["requests"][0]
    assert report["reconstruct"] == "FINISHED" and asked["method"] == "reconstruct"
    assert [Path(path).name for path in asked["params"]["photos"]] == ["a.jpg", "b.jpg"]
    assert asked["params"]["options"]["focal_mm"] == [None, 35]
    assert "switched off" in report["all off"]


def test_a_head_remembers_its_photos(report) -> None:
    assert report["views"] == [["person_0.jpg", True, 0], ["person_1.jpg", True, 0]]


def test_landmarks_cannot_be_dragged_without_a_window_or_without_landmarks(report) -> None:
    assert "no landmarks" in report["edit"]


def test_pins_are_undone_like_everything_else(report) -> None:
    assert report["pins"] == [[[4, 1, 2]], [[61, 21.5, 30.25]]] and report["undone"] == [[], []]


def test_fit_again_sends_pins_photos_and_focal_lengths_and_keeps_the_old_version(report) -> None:
    """The head was renamed before; what belongs to the photo that is off is not sent."""
    asked = report["requests"][1]
    assert report["refit"] == "FINISHED" and asked["method"] == "refit"
    params = asked["params"]
    assert params["photos"] == [1] and params["focal_mm"] == [None, 85]
    assert params["pins"] == [{"view": 1, "index": 61, "x": 21.5, "y": 30.25}]
    assert Path(params["bundle"]).name == "anna" and Path(params["out"]).name == "again"
    assert report["collections"] == [["again", False], ["anna", True]]
    assert report["new pins"][0] == [[61, 21.5, 30.25]]
    assert report["clear"] == "FINISHED" and report["cleared"] == [[], []]


def test_what_stands_in_the_way_is_said(report) -> None:
    assert "Every photo of this head is switched off. Switch at least one photo on." in report["none used"]
    assert "not at its place any more" in report["gone"]
