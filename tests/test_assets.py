# SPDX-License-Identifier: GPL-3.0-or-later
"""Installation of assets: from local archives, an index and a server on this machine; what is wrong is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import json
import shutil
import socket
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import assets, doctor
from backend.asset_formats import ICT_KEYS
from backend.assets import Asset, Package, Url
from backend.errors import GanfitError
from backend.paths import cache_dir

FILES = {"tiny/data/a.txt": b"one", "tiny/data/deep/b.txt": b"two", "tiny/__init__.py": b"raise SystemExit('imported')"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANFIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


def write_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    """A wheel that pip accepts, with these files."""
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


def register(monkeypatch: pytest.MonkeyPatch, archive: Path, source: Url | None = None, **changes: object) -> Asset:
    """Makes the archive the only asset, `tiny`."""
    digest = assets.sha256_file(archive) if archive.exists() else "0" * 64
    size = archive.stat().st_size if archive.exists() else 1
    fields: dict = {
        "name": "tiny",
        "purpose": "a test",
        "source": source or Package("tiny", "1.0", archive.name, digest, size),
        "prefix": "tiny/data/",
        "members": ("**",),
        "licence": "CC0-1.0",
        "sellable": True,
        "note": "",
    }
    fields["members"] = ("a.txt", "deep/*.txt")
    asset = Asset(**(fields | changes))
    monkeypatch.setattr(assets, "ASSETS", {"tiny": asset})
    monkeypatch.setattr(assets, "DEFAULTS", ("tiny",))
    return asset


def refused(code: str, action: Callable[[], object]) -> GanfitError:
    """The error that the action raises; nothing may be left installed or half done."""
    with pytest.raises(GanfitError) as caught:
        action()
    assert caught.value.code == code
    left = list((cache_dir() / "assets").glob("*")) + list((cache_dir() / "assets").glob(".*"))
    assert left == []
    return caught.value


def test_needed_members_are_unpacked_and_nothing_else(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, write_wheel(wheels, FILES))
    assert assets.download_size() > 0
    folder = assets.install(from_path=wheels)["tiny"]
    assert folder == assets.require("tiny")
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {"a.txt", "deep/b.txt", "asset.json"}
    assert (folder / "deep/b.txt").read_bytes() == b"two"
    assert assets.verify() == {"tiny": []}
    (entry,) = assets.status()
    assert entry["installed"] == str(folder) and entry["installed_size"] == 6 and entry["sellable"]
    assert assets.download_size() == 0
    json.dumps(entry)


def test_installed_assets_need_no_network(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, write_wheel(wheels, FILES))
    assets.install(from_path=wheels)

    def forbidden(*args: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(assets.subprocess, "Popen", forbidden)
    assert assets.install() == {"tiny": assets.require("tiny")}
    assets.status()


def test_missing_asset_names_the_command() -> None:
    with pytest.raises(GanfitError) as caught:
        assets.require("facenet")
    assert caught.value.code == "asset_missing"
    assert caught.value.hint == "Run `python -m backend assets install facenet`."
    with pytest.raises(GanfitError, match="asset_unknown"):
        assets.require("nothing")


def test_changed_archive_is_refused(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_wheel(wheels, FILES)
    register(monkeypatch, archive)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("tiny/data/deep/c.txt", b"more")
    refused("asset_damaged", lambda: assets.install(from_path=wheels))


def test_changed_members_are_refused_where_the_archive_has_no_hash(
    wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_wheel(wheels, FILES)
    contents = {"a.txt": b"one", "deep/b.txt": b"two"}
    digest = assets.tree_digest({name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})
    source = Url("http://localhost/x", archive.name, archive.stat().st_size)
    register(monkeypatch, archive, source, tree_sha256=digest)
    assets.install(from_path=archive)
    shutil.rmtree(cache_dir())
    write_wheel(wheels, FILES | {"tiny/data/a.txt": b"owe"})
    refused("asset_damaged", lambda: assets.install(from_path=archive))


@pytest.mark.parametrize("name", ["tiny/data/../../../evil.txt", "tiny/data//etc/evil.txt", "tiny/data/..\\evil.txt"])
def test_path_traversal_is_refused(name: str, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_wheel(wheels, FILES | {name: b"evil"})
    register(monkeypatch, archive, members=("**",), prefix="tiny/data/")
    monkeypatch.setattr(assets, "_matches", lambda path, pattern: True)
    refused("asset_damaged", lambda: assets.install(from_path=wheels))
    assert not list(tmp_path.rglob("evil.txt"))


def test_links_in_tars_are_refused(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = wheels / "tiny-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        link = tarfile.TarInfo("tiny/data/a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
    register(monkeypatch, archive)
    refused("asset_damaged", lambda: assets.install(from_path=wheels))


def test_bombs_and_holes_are_refused(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_wheel(wheels, {"tiny/data/a.txt": b"one"})
    register(monkeypatch, archive)
    assert "deep/*.txt" in refused("asset_damaged", lambda: assets.install(from_path=wheels)).message
    archive.write_bytes(archive.read_bytes()[:100])
    register(monkeypatch, archive)
    refused("asset_damaged", lambda: assets.install(from_path=wheels))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("tiny/data/a.txt", bytes(1_000_000))
        opened.writestr("tiny/data/deep/b.txt", b"")
    register(monkeypatch, archive)
    refused("asset_damaged", lambda: assets.install(from_path=wheels))


def test_tars_are_unpacked(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = wheels / "tiny-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    register(monkeypatch, archive, flatten=True)
    assert (assets.install(from_path=archive)["tiny"] / "b.txt").read_bytes() == b"two"


def test_damage_after_installation_is_noticed(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, write_wheel(wheels, FILES))
    folder = assets.install(from_path=wheels)["tiny"]
    (folder / "a.txt").write_bytes(b"ONE")
    assert assets.verify() == {"tiny": ["a.txt was changed"]}
    (folder / "a.txt").unlink()
    with pytest.raises(GanfitError, match="asset_damaged"):
        assets.require("tiny")
    assets.install(from_path=wheels)
    assert assets.verify() == {"tiny": []}


def test_a_new_revision_replaces_the_old_one(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_wheel(wheels, FILES)
    register(monkeypatch, archive)
    old = assets.install(from_path=wheels)["tiny"]
    register(monkeypatch, archive, revision=2)
    assert not assets.is_installed("tiny")
    new = assets.install(from_path=wheels)["tiny"]
    assert new.exists() and not old.exists()


# --- downloads from this machine --------------------------------------------------------------------------------------


class _Server(http.server.ThreadingHTTPServer):
    """Serves `pages` by path, with ranges; cuts an answer off after `cut` bytes, once."""

    pages: dict[str, bytes]
    cut: int | None = None
    ranges: list[str | None]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        content = self.server.pages.get(self.path)
        if content is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        end = self.server.cut
        self.server.cut = None
        self.wfile.write(content[start:end])

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as running:
        running.pages, running.ranges = {}, []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_a_package_comes_from_the_index_that_is_set(
    server: _Server, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_wheel(wheels, FILES)
    server.pages = {
        "/simple/tiny/": f'<a href="/files/{archive.name}">{archive.name}</a>'.encode(),
        f"/files/{archive.name}": archive.read_bytes(),
    }
    register(monkeypatch, archive)
    monkeypatch.setenv("GANFIT_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    reports: list[tuple[str, int, int]] = []
    folder = assets.install(progress=lambda *report: reports.append(report))["tiny"]
    assert (folder / "a.txt").read_bytes() == b"one"
    size = archive.stat().st_size
    assert reports[0] == ("tiny", 0, size) and reports[-1] == ("tiny", size, size)
    server.pages[f"/files/{archive.name}"] += b"tail"
    refused("asset_damaged", lambda: assets.install(force=True) if shutil.rmtree(cache_dir()) is None else None)


def test_without_a_network_it_says_so(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_wheel(wheels, FILES)
    register(monkeypatch, archive)
    with socket.socket() as unused:  # bound, not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        for name, value in {"PIP_RETRIES": "0", "PIP_NO_INDEX": "", "PIP_FIND_LINKS": ""}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("GANFIT_INDEX_URL", f"{address}/simple")
        assert "cannot be reached" in refused("download_failed", assets.install).message
        register(monkeypatch, archive, Url(f"{address}/{archive.name}", archive.name, 10))
        refused("download_failed", assets.install)


def test_a_download_that_was_cut_off_goes_on(server: _Server, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_wheel(wheels, FILES)
    server.pages["/tiny.whl"] = archive.read_bytes()
    server.cut = 200
    url = f"http://127.0.0.1:{server.server_port}/tiny.whl"
    source = Url(url, archive.name, archive.stat().st_size, assets.sha256_file(archive)[:10])
    register(monkeypatch, archive, source)
    refused("download_failed", assets.install)
    assert (assets.install()["tiny"] / "a.txt").read_bytes() == b"one"
    assert server.ranges == [None, "bytes=200-"]
    assert not list((cache_dir() / "downloads").iterdir())


# --- conversions ------------------------------------------------------------------------------------------------------


def _obj(offset: float) -> str:
    vertices = [(x + offset, y, 0.5) for y in range(2) for x in range(3)]
    lines = [f"v {x} {y} {z}" for x, y, z in vertices] + [f"vt {x / 3} {y} " for x, y, _ in vertices]
    return "\n".join([*lines, "usemtl M_Skin", "f 1/1 2/2 5/5 4/4", "usemtl M_Eye", "f 2/2 3/3 6/6", ""])


def test_ict_is_converted_from_its_archive(server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = assets.ASSETS["ict"]
    buffer = io.BytesIO()
    parts = {"generic_neutral_mesh": 0.0, "identity000": 0.25, "identity001": 0.5, "jawOpen": -1.0}
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, offset in parts.items():
            archive.writestr(f"{real.prefix}FaceXModel/{name}.obj", _obj(offset))
        archive.writestr(f"{real.prefix}LICENSE", "MIT")
    server.pages["/ict.zip"] = buffer.getvalue()
    source = Url(f"http://127.0.0.1:{server.server_port}/ict.zip", real.source.filename, len(buffer.getvalue()))
    stand_in = dataclasses.replace(real, source=source, tree_sha256=None)
    monkeypatch.setattr(assets, "ASSETS", {"ict": stand_in})
    folder = assets.install(["ict"])["ict"]
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE", "asset.json", "ict.npz"]
    with np.load(folder / "ict.npz", allow_pickle=False) as arrays:
        assert set(ICT_KEYS) <= set(arrays)
        assert arrays["identity"].shape == (2, 6, 3)
        assert np.all(arrays["identity"][1, :, 0] == 0.5) and np.all(arrays["expression"][0, :, 0] == -1)
        assert arrays["faces"].tolist() == [[0, 1, 4, 3], [1, 2, 5, -1]]
        assert [str(arrays["material_names"][i]) for i in arrays["face_material"]] == ["M_Skin", "M_Eye"]
    copy = tmp_path / "copy.npz"
    copy.write_bytes((folder / "ict.npz").read_bytes())
    assets.install(["ict"], from_path=copy, force=True)
    assert assets.verify() == {"ict": []}
    np.savez(copy, neutral=np.zeros((3, 3)))
    shutil.rmtree(cache_dir())
    refused("asset_damaged", lambda: assets.install(["ict"], from_path=copy))


def test_local_ict_equals_the_shared_one(shared: Path) -> None:
    file = shared / "data" / "ict" / "ict_facekit_light.npz"
    folder = assets.install(["ict"], from_path=file)["ict"]
    assert (folder / "ict.npz").read_bytes() == file.read_bytes()


def test_checkpoints_are_converted_without_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    real = assets.ASSETS["facenet"]
    file = tmp_path / real.source.filename
    state = {"conv.weight": torch.rand(2, 2), "logits.weight": torch.rand(3, 3)}
    torch.save(state, file)
    unpinned = dataclasses.replace(real, source=dataclasses.replace(real.source, sha256=None))
    refused("asset_damaged", lambda: assets.install(["facenet"], from_path=file))
    monkeypatch.setattr(assets, "ASSETS", {"facenet": unpinned})
    folder = assets.install(["facenet"], from_path=file)["facenet"]
    stored = load_file(folder / "facenet.safetensors")
    assert list(stored) == ["conv.weight"] and torch.equal(stored["conv.weight"], state["conv.weight"])

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "evil",))

    torch.save({"conv.weight": Evil()}, file)
    shutil.rmtree(cache_dir())
    refused("asset_damaged", lambda: assets.install(["facenet"], from_path=file))
    assert not (tmp_path / "evil").exists()


# --- doctor -----------------------------------------------------------------------------------------------------------


def test_doctor_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 1
    text = capsys.readouterr().out
    assert "Assets are missing: makehuman, mediapipe, dlib_resnet" in text
    assert "results may NOT be sold" in text
    assert doctor.main(["--json"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert values["choices"]["identity"] == {"dlib": False, "facenet": False}
    assert values["packages"]["torch"] == torch.__version__


def test_every_default_may_be_sold_and_is_pinned() -> None:
    for asset in assets.ASSETS.values():
        if asset.default:
            assert asset.sellable and isinstance(asset.source, Package) and len(asset.source.sha256) == 64
            assert asset.tree_sha256
