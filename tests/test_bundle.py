# SPDX-License-Identifier: GPL-3.0-or-later
"""The result bundle: whole or not at all, checked when it is read, without pickle."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend import bundle as bundle_module
from backend.bundle import Bundle, check_output, is_whole, read_bundle, write_bundle
from backend.errors import GanfitError

ROOT = Path(__file__).resolve().parent.parent


def head_arrays() -> dict[str, np.ndarray]:
    """A cube in quads with everything that `head.npz` holds."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32) * 0.1
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]], np.int32)
    names = [f"expression{i:02d}" for i in range(52)]
    return {
        "verts": corners,
        "quads": quads,
        "corner_uvs": np.zeros((6, 4, 2), np.float32),
        "corner_uvs_makehuman": np.zeros((6, 4, 2), np.float32),
        "part": np.array([0, 0, 0, 0, 0, 1], np.uint8),
        "part_names": np.array(["skin", "teeth"]),
        "expression_names": np.array(names),
        "expression_deltas": np.zeros((52, 8, 3), np.float32),
        "offsets": np.zeros((8, 3), np.float32),
        "makehuman_index": np.arange(8, dtype=np.int32),
        "palette_weights": np.zeros((8, 2), np.float32),
        "palette_names": np.array(["teeth", "gums"]),
        "region_names": np.array(["face"]),
        "region_masks": np.ones((1, 8), np.float32),
    }


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def contents(seed: int = 0, **head: np.ndarray) -> dict[str, bytes]:
    """All files of a small bundle; `head` replaces arrays of `head.npz`."""
    arrays = head_arrays() | head
    view = {
        "photo": {"file": "photo_00.png", "name": "me.jpg", "sha256": "0" * 64, "size": [4, 4]},
        "camera": {"cam_to_world": np.eye(4).tolist(), "yfov": 0.5, "principal_point": [2, 2], "size": [4, 4]},
        "lights": {"sh": np.zeros((9, 3)).tolist(), "sun": {"direction": [0, 0, 1], "rgb": [1, 1, 1]}},
        "expression": dict.fromkeys(arrays["expression_names"].tolist(), 0.0),
        "files": {"photo": "photo_00.png", "render": "render_00.png", "overlay": "overlay_00.jpg"},
    }
    result = {
        "version": 1,
        "layout_id": "1" * 64,
        "views": [view],
        "shape": {"basis": "makehuman", "coefficients": [0.1], "scale": 1.0},
        "texture": {"latent": [0.0], "generator_sha256": "2" * 64, "size": 8},
        "palette": {"teeth": [1, 1, 1]},
        "seed": seed,
    }
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (seed, 0, 0)).save(stream, "PNG")
    pictures = ("albedo.png", "generator.png", "photo_00.png", "render_00.png", "overlay_00.jpg", "sheet.jpg")
    return {
        "result.json": json.dumps(result).encode(),
        "head.npz": npz(arrays),
        "head.glb": b"glTF",
        "landmarks68.json": json.dumps(np.zeros((68, 3)).tolist()).encode(),
        **dict.fromkeys(pictures, stream.getvalue()),
    }


def error_of(code: str, call, *arguments) -> GanfitError:
    with pytest.raises(GanfitError) as caught:
        call(*arguments)
    assert caught.value.code == code, caught.value
    return caught.value


def names_in(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "deep" / "er" / "me", contents(7))
    assert written.path == tmp_path / "deep" / "er" / "me"
    assert names_in(written.path) == sorted(contents()) and names_in(written.path.parent) == ["me"]
    again = read_bundle(written.path)
    assert again.result["seed"] == 7 and again.result == written.result
    for name, array in head_arrays().items():
        assert np.array_equal(again.head[name], array), name
    assert again.landmarks.shape == (68, 3) and again.image("albedo.png")[0, 0].tolist() == [7, 0, 0]
    assert is_whole(written.path)


def test_files_get_the_permissions_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_bundle(tmp_path / "me", contents())
    assert (tmp_path / "me").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_without_folder_it_stays_in_memory() -> None:
    kept = write_bundle(None, contents())
    assert kept.path is None and kept.head["verts"].shape == (8, 3) and kept.landmarks.shape == (68, 3)
    assert json.loads(kept.read("result.json")) == kept.result
    error_of("bundle_damaged", kept.read, "normal.png")


def test_old_bundle_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "me"
    write_bundle(folder, {**contents(1), "photo_01.png": b"old", "normal.png": b"old"})
    (folder / "me.blend").write_bytes(b"mine")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("mine")
    write_bundle(folder, contents(2))
    assert names_in(folder) == sorted([*contents(), "me.blend", "notes"])
    assert (folder / "me.blend").read_bytes() == b"mine" and (folder / "notes" / "a.txt").read_text() == "mine"
    assert read_bundle(folder).result["seed"] == 2 and names_in(tmp_path) == ["me"]


def test_a_reader_never_sees_a_mixture(tmp_path: Path) -> None:
    """Another process replaces the bundle again and again; each read gives one generation or finds none."""
    folder = tmp_path / "me"
    code = (
        "import sys; sys.path[:0] = [{root!r}, {tests!r}]\n"
        "from test_bundle import contents, write_bundle\n"
        "for i in range(60): write_bundle({folder!r}, contents(i))\n"
    ).format(root=str(ROOT), tests=str(ROOT / "tests"), folder=str(folder))
    write_bundle(folder, contents(0))
    seen = set()
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        while writer.poll() is None:
            seen.add(_generation(folder))
    assert writer.returncode == 0 and is_whole(folder) and names_in(tmp_path) == ["me"]
    assert len(seen - {None}) > 5


def _generation(folder: Path) -> int | None:
    """The seed of the bundle that has this name now, after comparing it with its picture; None when it just changes."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        texts = []
        for name in ("result.json", "albedo.png"):
            with open(os.open(name, os.O_RDONLY, dir_fd=descriptor), "rb") as stream:
                texts.append(stream.read())
    except FileNotFoundError:
        return None  # replaced and removed while it was read
    finally:
        os.close(descriptor)
    seed = json.loads(texts[0])["seed"]
    with Image.open(io.BytesIO(texts[1])) as picture:
        assert picture.getpixel((0, 0)) == (seed, 0, 0)
    return seed


@pytest.mark.parametrize("stop", [0, 3, 7, "swap"])
def test_a_failing_write_leaves_the_old_bundle(tmp_path: Path, monkeypatch, stop: int | str) -> None:
    folder = tmp_path / "me"
    write_bundle(folder, contents(1))
    calls = {"write": 0, "rename": 0}
    write, rename = Path.write_bytes, os.rename

    def full(path: Path, data: bytes) -> int:
        if ".new-" in path.parent.name:
            calls["write"] += 1
            if calls["write"] - 1 == stop:
                write(path, data[: len(data) // 2])
                raise OSError(28, "No space left on device")
        return write(path, data)

    def refuse(source: Path, target: Path) -> None:
        calls["rename"] += 1
        if stop == "swap" and calls["rename"] == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(bundle_module.os, "rename", refuse)
    error_of("disk_full", write_bundle, folder, contents(2))
    assert read_bundle(folder).result["seed"] == 1 and names_in(tmp_path) == ["me"]


def test_a_full_disk(tmp_path: Path) -> None:
    """On a real file system of 100 kB, where this process may mount one."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(mount)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        write_bundle(mount / "me", contents(1))
        noise = np.random.default_rng(0).bytes(200_000)
        error_of("disk_full", write_bundle, mount / "me", {**contents(2), "generator.png": noise})
        assert read_bundle(mount / "me").result["seed"] == 1 and names_in(mount) == ["me"]
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_killed_while_writing(tmp_path: Path) -> None:
    """SIGKILL in the middle: the old bundle is there, and the next write clears the rest away once it is old."""
    if os.name != "posix":
        pytest.skip("SIGKILL is POSIX")
    folder = tmp_path / "me"
    write_bundle(folder, contents(1))
    code = (
        "import sys, os, signal; sys.path[:0] = [{root!r}, {tests!r}]\n"
        "from pathlib import Path\n"
        "from test_bundle import contents, write_bundle\n"
        "write = Path.write_bytes\n"
        "def die(path, data):\n"
        "    write(path, data[:100])\n"
        "    if path.name == 'head.glb': os.kill(os.getpid(), signal.SIGKILL)\n"
        "Path.write_bytes = die\n"
        "write_bundle({folder!r}, contents(2))\n"
    ).format(root=str(ROOT), tests=str(ROOT / "tests"), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert read_bundle(folder).result["seed"] == 1 and len(names_in(tmp_path)) == 2
    for item in tmp_path.iterdir():
        os.utime(item, (time.time() - 7200,) * 2)
    write_bundle(folder, contents(3))
    assert read_bundle(folder).result["seed"] == 3 and names_in(tmp_path) == ["me"]


def test_killed_between_the_two_renames(tmp_path: Path) -> None:
    folder, aside = tmp_path / "me", tmp_path / ".me.old-0123abcd"
    write_bundle(folder, contents(1))
    folder.rename(aside)
    os.utime(aside, (time.time() - 7200,) * 2)
    check_output(folder)
    assert read_bundle(folder).result["seed"] == 1 and names_in(tmp_path) == ["me"]


def test_output_is_checked_before_a_fit(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    error_of("output_not_writable", check_output, tmp_path / "file")
    error_of("output_not_writable", check_output, tmp_path / "file" / "me")
    error_of("output_not_a_bundle", check_output, tmp_path / "full")
    error_of("output_not_a_bundle", write_bundle, tmp_path / "full", contents())
    error_of("output_not_writable", check_output, tmp_path / ("x" * 400))
    error_of("output_not_writable", check_output, "nul\0byte")
    assert check_output(tmp_path / "empty") == tmp_path / "empty"
    assert check_output(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
    assert names_in(tmp_path) == ["empty", "file", "full"] and names_in(tmp_path / "full") == ["thesis.txt"]
    write_bundle(tmp_path / "empty", contents())


def test_read_only_folder(tmp_path: Path) -> None:
    """/proc takes no folders even from root; a user without rights is refused by the mode."""
    if Path("/proc/self").exists():
        error_of("output_not_writable", check_output, "/proc/me")
        error_of("output_not_writable", write_bundle, "/proc/me", contents())
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        tmp_path.chmod(0o500)
        error_of("output_not_writable", check_output, tmp_path / "me")
        tmp_path.chmod(0o700)


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_bundle(tmp_path / "link", contents())
    write_bundle(tmp_path / "link", contents(3))
    assert (tmp_path / "link").is_symlink() and read_bundle(tmp_path / "real").result["seed"] == 3


def change(folder: Path, **entries) -> None:
    """Overwrites entries of result.json; None removes them."""
    document = folder / "result.json"
    result = {k: v for k, v in (json.loads(document.read_text()) | entries).items() if v is not None}
    document.write_text(json.dumps(result))


def test_a_bad_bundle_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "me"
    error_of("bundle_missing", read_bundle, folder)
    error_of("bundle_missing", read_bundle, "nul\0byte")

    def damaged(code: str, damage) -> None:
        write_bundle(folder, contents())
        damage()
        error_of(code, read_bundle, folder)
        assert not is_whole(folder)

    document = folder / "result.json"
    damaged("bundle_version", lambda: change(folder, version=2))
    damaged("bundle_version", lambda: change(folder, version="1"))
    damaged("bundle_damaged", lambda: document.write_text("{"))
    damaged("bundle_damaged", lambda: document.write_text("[1]"))
    damaged("bundle_damaged", lambda: document.write_text("[" * 100_000))
    damaged("bundle_damaged", lambda: change(folder, views=[]))
    damaged("bundle_damaged", lambda: change(folder, views=[{}]))
    damaged("bundle_damaged", lambda: change(folder, views=[1]))
    damaged("bundle_damaged", lambda: change(folder, files=None))
    damaged("bundle_damaged", lambda: change(folder, files={"../../etc/passwd": {"sha256": "0" * 64}}))
    damaged("bundle_damaged", lambda: change(folder, layout_id=None))
    damaged("bundle_damaged", lambda: (folder / "render_00.png").unlink())
    damaged("bundle_damaged", lambda: (folder / "albedo.png").write_bytes(b"other"))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def pickled() -> np.ndarray:
    array = np.empty(1, object)
    array[0] = Trap()
    return array


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("verts", np.zeros((7, 3), np.float32)),
        ("verts", np.full((8, 3), np.nan, np.float32)),
        ("verts", np.zeros((8, 3), np.int32)),
        ("quads", np.full((6, 4), 8, np.int32)),
        ("quads", np.full((6, 4), -1, np.int32)),
        ("expression_deltas", np.zeros((51, 8, 3), np.float32)),
        ("part", np.full(6, 2, np.uint8)),
        ("palette_names", np.array(["one"])),
        ("offsets", pickled()),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, name: str, array: np.ndarray) -> None:
    written = write_bundle(tmp_path / "me", contents(**{name: array}))
    error_of("bundle_damaged", lambda: written.head)
    assert not is_whole(written.path)


@pytest.mark.parametrize("kind", ["hair", "glasses"])
def test_what_stands_off_the_head_is_whole_or_not_there(tmp_path: Path, kind: str) -> None:
    """A bundle may be without it; with a part of it, or with quads that point nowhere, it is damaged."""
    verts, quads, uvs = f"{kind}_verts", f"{kind}_quads", f"{kind}_uvs"
    whole = {verts: np.zeros((4, 3), np.float32), quads: np.array([[0, 1, 2, 3]], np.int32),
             uvs: np.zeros((1, 4, 2), np.float32)}
    written = write_bundle(tmp_path / "me", contents(**whole))
    assert written.head[quads].tolist() == [[0, 1, 2, 3]]
    broken = [{k: v for k, v in whole.items() if k != name} for name in whole]
    broken += [whole | {quads: np.array([[0, 1, 2, 4]], np.int32)}, whole | {uvs: np.zeros((2, 4, 2), np.float32)},
               whole | {quads: np.zeros((0, 4), np.int32), uvs: np.zeros((0, 4, 2), np.float32)}]
    for number, arrays in enumerate(broken):
        damaged = write_bundle(tmp_path / f"{number}", contents(**arrays))
        error_of("bundle_damaged", lambda bundle=damaged: bundle.head)


@pytest.mark.parametrize(("answer", "fine"), [(None, True), (True, True), (False, True), ("no", False), (1, False)])
def test_a_view_may_say_whether_it_shows_glasses(tmp_path: Path, answer: object, fine: bool) -> None:
    made = contents()
    result = json.loads(made["result.json"])
    if answer is not None:
        result["views"][0]["glasses"] = answer
    write_bundle(tmp_path / "me", {**made, "result.json": json.dumps(result).encode()})
    assert is_whole(tmp_path / "me") == fine


def test_a_pickle_in_place_of_the_arrays(tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "me", {**contents(), "head.npz": pickle.dumps(Trap())})
    error_of("bundle_damaged", lambda: written.head)


def test_mutations_of_the_arrays_never_crash() -> None:
    draw, good = random.Random(0), contents()
    refused = 0
    for _ in range(150):
        broken = bytearray(good["head.npz"])
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(broken))
            if draw.random() < 0.7:
                broken[place] ^= 1 << draw.randrange(8)
            else:
                del broken[place : place + draw.randint(1, 200)]
        try:
            kept = write_bundle(None, {**good, "head.npz": bytes(broken)})
            assert kept.head["verts"].shape == (8, 3)
        except GanfitError as error:
            assert error.code == "bundle_damaged"
            refused += 1
    assert refused > 100


def test_landmarks_and_images_are_checked() -> None:
    for text in (b"[]", b"[[1, 2]]", b"{}", b"nonsense", json.dumps([[float("nan")] * 3] * 68).encode()):
        kept = write_bundle(None, {**contents(), "landmarks68.json": text})
        error_of("bundle_damaged", lambda kept=kept: kept.landmarks)
    kept = write_bundle(None, {**contents(), "albedo.png": b"no image"})
    error_of("bundle_damaged", kept.image, "albedo.png")


def test_not_a_number_is_never_written() -> None:
    broken = json.loads(contents()["result.json"]) | {"seed": float("nan")}
    with pytest.raises((ValueError, GanfitError)):
        write_bundle(None, {**contents(), "result.json": json.dumps(broken).encode()})


def test_repr_names_the_folder(tmp_path: Path) -> None:
    assert isinstance(write_bundle(None, contents()), Bundle) and "memory" in repr(write_bundle(None, contents()))
