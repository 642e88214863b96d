# SPDX-License-Identifier: GPL-3.0-or-later
"""Fits the bench's photos, scores the heads and prints one table beside the baselines; run by `build.py bench`.

The argument is JSON, see `Job`. Results lie in out/bench/<code>-<options>/: a bundle and a row of seconds per case,
`report.json`, `table.txt` and plots. What is there is not done again, so a long run can be cut in pieces or killed.
"""
from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import score

ROOT = Path(__file__).resolve().parents[2]
GALLERY = 100
"""Portraits that identity is told apart in: the first of the list, which no training has seen."""
BASELINES = {"mh_dev": "mean MakeHuman head", "ict_dev": "mean ICT head", "mp_dev": "MediaPipe 468 mesh",
             "fit_dev": "68-landmark fit, MakeHuman PCA"}  # fmt: skip
CONDITIONS = ("cooperative", "indoor", "outdoor", "occluded", "grayscale")
"""In which order the photos of one subject join a series."""
SERIES = (2, 3, 5)
"""Photos of one subject that are fitted together."""
SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
SKINS = ("lightskinned", "darkskinned", "asian", "black", "hispanic", "white", "aian", "mena", "nhpi")
"""Words for a skin in the names of textures (MakeHuman's) and avatars (VALID's)."""
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
COLUMNS = {"micc_mean": "MICC mm", "micc_fixed_scale_mean": "fixed", "now_median": "NoW mm",
           "id_render_grey": "id rend", "id_yaw+0": "id 0", "id_side": "id +-30", "bare_render_grey": "bare rend",
           "bare_side": "bare +-30", "img_mae": "MAE", "img_ssim": "SSIM",
           "seconds": "s", "cpu_seconds": "CPU s", "peak_mb": "MB"}  # fmt: skip
FIGURES = [name for name in COLUMNS if "seconds" not in name and name != "peak_mb"]


@dataclass(frozen=True)
class Job:
    """What to run."""

    backend_python: str
    blender_python: str
    shared: str
    """Folder of the developer's data; `bench/` in it is used where it is there."""
    photos: list[str] = field(default_factory=list)
    """Photos, or folders of photos, for time and memory alone, in place of the sets."""
    set: str = "auto"
    """dev (the shared bench), own (heads made here), auto: dev where it is there."""
    cases: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    condition: list[str] = field(default_factory=list)
    portraits: int = 0
    bare: bool = False
    """Score each fit with the generator's own map as well, without hair and glasses."""
    series: bool = False
    """Fit 2, 3 and 5 of each subject's chosen photos together as well."""
    judge: str = ""
    options: dict = field(default_factory=dict)
    processes: int = 1
    resume: bool = False
    score_only: bool = False
    out: str = ""


@dataclass(frozen=True)
class Case:
    """One photo, or a series of one subject; `truth` is None where the head is not known."""

    id: str
    photo: Path
    kind: str  # dev, own, portrait or photo
    subject: str = ""
    condition: str = ""
    group: str = ""
    truth: Path | None = None
    sex: str = ""
    skin: str = ""
    more: tuple[Path, ...] = ()
    """Further photos of the same person, fitted together with the first."""


def main() -> None:
    """Choose, fit, score, report."""
    import plots  # needs matplotlib, which tests of this file's figures do not have

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    job = Job(**json.loads(sys.argv[1]))
    folder = run_folder(job)
    if job.resume:
        job = Job(**{**asdict(job), **json.loads((folder / "run.json").read_text("utf-8"))["job"]})
    cases = choose_cases(job)
    for name in ("pred", "rows"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    run = describe_run(job)  # now: the checkout may change during a long run
    (folder / "run.json").write_text(json.dumps(run, indent=1), "utf-8")
    print(f"{len(cases)} photos; results in {folder}", flush=True)
    if not job.score_only:
        fit(job, folder, cases)
    done = [case for case in cases if (folder / "rows" / f"{case.id}.json").exists()]
    report = {**run, "code_changed": code_hash() != run["code"], **make_report(job, folder, done)}
    (folder / "report.json").write_text(json.dumps(report, indent=1), "utf-8")
    text = table(report)
    (folder / "table.txt").write_text(text, "utf-8")
    print(text)
    plots.write(folder, report)
    print(f"{folder}/report.json, table.txt and plots/")


# --- what is run ------------------------------------------------------------------------------------------------------


def code_hash() -> str:
    """Of everything in the backend that can change a result."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "backend").rglob("*")):
        if path.suffix in (".py", ".npz", ".safetensors", ".json") and "__pycache__" not in path.parts:
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:10]


def run_folder(job: Job) -> Path:
    """out/bench/<commit>-<code>-<preset>[-options]; with `resume` the newest there is."""
    base = Path(job.out) if job.out else ROOT / "out" / "bench"
    code = code_hash()
    if job.resume:
        runs = sorted(base.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
        if not runs:
            sys.exit(f"error: there is no run to resume in {base}.")
        if json.loads(runs[-1].read_text("utf-8"))["code"] != code:
            sys.exit(f"error: the backend has changed since {runs[-1].parent.name}: start a run of its own.")
        return runs[-1].parent
    options = {name: value for name, value in job.options.items() if name != "preset" and value is not None}
    extra = "".join(f"-{name}={Path(str(value)).stem}" for name, value in sorted(options.items()))
    return base / f"{commit()[:8] or 'nogit'}-{code}-{job.options['preset']}{extra}"


def commit() -> str:
    """The checkout's commit, empty outside of git."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def describe_run(job: Job) -> dict:
    """What `--resume` reads, and what a report says of its origin."""
    kept = {k: v for k, v in asdict(job).items() if k not in ("backend_python", "blender_python", "resume", "out")}
    return {"code": code_hash(), "commit": commit(), "cpus": os.cpu_count(), "job": kept}


def choose_cases(job: Job) -> list[Case]:
    """The cases that the options leave."""
    if job.photos:
        return photo_cases(map(Path, job.photos))
    bench = Path(job.shared) / "bench"
    use_dev = job.set == "dev" or job.set == "auto" and (bench / "dev").is_dir()
    found = dev_cases(bench / "dev") if use_dev else own_cases(job)
    wanted = [case for case in found
              if (not job.cases or any(part in case.id for part in job.cases))
              and (not job.group or case.group in job.group)
              and (not job.condition or case.condition in job.condition)]  # fmt: skip
    if job.series:
        wanted += series_of(wanted)
    if job.portraits and use_dev:
        names = (bench / "dev" / "portraits.txt").read_text().split()[: min(job.portraits, GALLERY)]
        folder = Path(job.shared) / "data" / "portraits"
        wanted += [Case(Path(name).stem, folder / name, "portrait", group="portraits") for name in names]
    if not wanted:
        sys.exit("error: no case is left: see --cases, --group and --condition.")
    return wanted


def series_of(cases: list[Case]) -> list[Case]:
    """The first 2, 3 and 5 photos of every subject that has so many; each series is named after its first photo."""
    found = []
    for subject in sorted({case.subject for case in cases}):
        photos = [case for case in cases if case.subject == subject]
        photos.sort(key=lambda case: CONDITIONS.index(case.condition))
        found += [replace(photos[0], id=f"{subject}_{count}_photos", kind="series", condition=f"{count} photos",
                          more=tuple(case.photo for case in photos[1:count]))
                  for count in SERIES if count <= len(photos)]  # fmt: skip
    return found


def dev_cases(dev: Path) -> list[Case]:
    """Photos with known heads of the shared bench."""
    cases = []
    for path in sorted((dev / "gt").glob("*.json")):
        meta = json.loads(path.read_text("utf-8"))
        names = meta["subject"], meta["condition"], meta["group"]
        cases.append(Case(path.stem, dev / "images" / meta["image"], "dev", *names, path, *person_of(meta)))
    return cases


def person_of(meta: dict) -> tuple[str, str]:
    """Sex and skin as a case's fields name them (`skin` ..._darkskinned_male_..., `source` Asian_F_1), or empty."""
    words = [*str(meta.get("skin", "")).lower().split("_"), *str(meta.get("source", "")).lower().split("_")]
    sex = next((SEXES[word] for word in words if word in SEXES), "")
    return sex, next((word.removesuffix("skinned") for word in words if word in SKINS), "")


def photo_cases(paths: Iterable[Path]) -> list[Case]:
    """Photos of which nothing is known; of a folder all that it holds."""
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files += [file for file in inside if file.suffix.lower() in PHOTO_SUFFIXES]
    if not files:
        sys.exit("error: there is no photo in what was given.")
    return [Case(file.stem, file.absolute(), "photo", group="photos") for file in files]


def own_cases(job: Job) -> list[Case]:
    """Heads with random parameters and free-form bumps, rendered by Cycles; made once."""
    from own_heads import heads_folder

    folder = heads_folder(ROOT / "out" / "bench" / "heads", job.backend_python, job.blender_python)
    cases = []
    for truth in sorted(folder.glob("truth/*/result.json")):
        condition = json.loads(truth.read_text("utf-8"))["condition"]
        name = truth.parent.name
        cases.append(Case(name, folder / "images" / f"{name}.png", "own", name.split("_")[0], condition, "own",
                          truth.parent))  # fmt: skip
    return cases


def fit(job: Job, folder: Path, cases: list[Case]) -> None:
    """Fits what has no row yet, or failed, in `processes` processes; their lines go to the terminal."""
    todo = [case for case in cases if not is_done(job, folder, case)]
    if not todo:
        return
    threads = max(1, (os.cpu_count() or 1) // job.processes)
    script = Path(__file__).parent / "fit_cases.py"
    started = []
    try:
        for share in (todo[i :: job.processes] for i in range(job.processes)):
            work = [{"id": c.id, "photos": [str(photo) for photo in (c.photo, *c.more)],
                     "out": str(folder / "pred" / c.id), "row": str(folder / "rows" / f"{c.id}.json"),
                     "bare": str(folder / "bare" / c.id) if job.bare else ""} for c in share]  # fmt: skip
            command = [job.backend_python, str(script), json.dumps({"options": job.options, "cases": work})]
            env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            started.append(subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE))
        if codes := [code for process in started if (code := process.wait())]:
            sys.exit(f"error: a fitting process ended with {codes[0]}; run the same command to go on.")
    finally:
        for process in started:
            process.kill()


def is_done(job: Job, folder: Path, case: Case) -> bool:
    """Whether a case has a row without an error and its bundles."""
    row = folder / "rows" / f"{case.id}.json"
    whole = all((folder / part / case.id / "result.json").exists() for part in ("pred", *["bare"] * job.bare))
    return whole and row.exists() and "error" not in json.loads(row.read_text("utf-8"))


# --- scores -----------------------------------------------------------------------------------------------------------


def make_report(job: Job, folder: Path, cases: list[Case]) -> dict:
    """All figures of a run: a row per case, baselines, identification, the albedo under several lights."""
    rows = {case.id: case_row(folder, case) for case in cases}
    report: dict = {"rows": rows, "baselines": {}, "identification": {}, "now_pooled": {}}
    dev = [case for case in cases if case.kind in ("dev", "portrait")]
    if dev:
        judged = run_harness(job, folder, dev, "pred")
        for case in dev:
            rows[case.id] |= figures_of(judged, case)
        report["identification"] = judged.get("identification", {})
        if job.bare:
            bare = run_harness(job, folder, dev, "bare")
            for case in dev:
                rows[case.id] |= {"bare" + name.removeprefix("id"): value
                                  for name, value in figures_of(bare, case).items() if name.startswith("id_")}
            report["bare_identification"] = bare.get("identification", {})
        pooled = {name: entry.get("now_pooled") for name, entry in judged["conditions"].items()}
        report["now_pooled"] = {name: value for name, value in pooled.items() if value}
        report["baselines"] = baselines(Path(job.shared) / "bench" / "baselines")
    maps = folder / "maps"
    maps.mkdir(exist_ok=True)
    for case in cases:
        if case.truth is not None and rows[case.id].get("ok", 1) and "error" not in rows[case.id]:
            own = own_score(folder, case, maps / f"{case.id}.npz")
            rows[case.id] = {**own, **rows[case.id]}  # the shared bench's figures where it has them
    for row in rows.values():
        for name in ("id", "bare"):
            if f"{name}_yaw-30" in row:
                row[f"{name}_side"] = (row[f"{name}_yaw-30"] + row[f"{name}_yaw+30"]) / 2
    report["series"] = series_report(rows, cases)
    report["light_invariance"] = albedo_under_lights(folder, cases)
    report["throughput"] = throughput([row for row in rows.values() if row["kind"] != "series"], job.processes)
    return report


def figures_of(judged: dict, case: Case) -> dict:
    """What the shared bench found for one case."""
    return judged["images"].get(case.id) or judged["portraits"].get(case.photo.name, {})


def series_report(rows: dict[str, dict], cases: list[Case]) -> dict[str, dict[str, list[float]]]:
    """Subject -> "alone", "together" -> MICC mm of each series: the mean of its photos, each fitted by itself, beside
    the fit of all of them."""
    found: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        photos = (case.photo, *case.more)
        alone = [rows[c.id].get("micc_mean") for c in cases if c.kind != "series" and c.photo in photos]
        if case.kind == "series" and len(alone) == len(photos) and None not in alone:
            entry = found.setdefault(case.subject, {"alone": [], "together": []})
            entry["alone"].append(float(np.mean(alone)))
            entry["together"].append(rows[case.id].get("micc_mean", float("nan")))
    return found


def throughput(rows: list[dict], processes: int) -> dict[str, float]:
    """Photos a minute, failures, and whether memory grows from photo to photo (MB a photo, the first two left out).

    Start-up is no part of it; with several processes each one's memory is in the rows.
    """
    rows = sorted(rows, key=lambda row: row.get("ended", 0.0))
    seconds, cpu = (sum(row[name] for row in rows) for name in ("seconds", "cpu_seconds"))
    failed = sum("error" in row for row in rows)
    found = {"photos": len(rows), "failed": failed, "photos_per_minute": 60 * len(rows) * processes / seconds,
             "cpu_seconds_per_photo": cpu / len(rows), "peak_mb": max(row["peak_mb"] for row in rows)}  # fmt: skip
    if processes == 1 and len(rows) >= 10:
        memory = [row["rss_mb"] for row in rows[2:]]
        found["growth_mb_per_photo"] = float(np.polyfit(range(len(memory)), memory, 1)[0])
    return found


def case_row(folder: Path, case: Case) -> dict:
    """Seconds, memory and losses of a fit, what the case is, and the skin tone that the fit found."""
    row = json.loads((folder / "rows" / f"{case.id}.json").read_text("utf-8"))
    names = ("kind", "subject", "condition", "group", "sex", "skin")
    row |= {name: getattr(case, name) for name in names}
    bundle = folder / "pred" / case.id
    if "error" not in row and (bundle / "albedo.png").exists():
        row["ita"] = score.skin_tone_angle(score.face_colours(bundle))
        row["tone"] = score.skin_tone(row["ita"])
    return row


def own_score(folder: Path, case: Case, map_file: Path) -> dict:
    """Geometry and regions by this project's own measure, kept with the error map from one run to the next."""
    kept = map_file.with_suffix(".json")
    if kept.exists():
        return json.loads(kept.read_text("utf-8"))
    assert case.truth is not None
    bundle = folder / "pred" / case.id
    if case.truth.is_dir():
        truth = score.read_bundle(case.truth)
    else:
        meta = json.loads(case.truth.read_text("utf-8"))
        truth = score.read_ground_truth(case.truth.with_name(meta["mesh"]), meta["landmarks68_mm"])
    row, (points, distance) = score.geometry(truth, score.read_bundle(bundle))
    photo = np.asarray(score.Image.open(case.photo).convert("RGB"))
    row |= score.image_error(photo, np.asarray(score.Image.open(bundle / "render_00.png").convert("RGBA")))
    np.savez_compressed(map_file, points=points - truth.landmarks[30], distance=distance)
    kept.write_text(json.dumps(row), "utf-8")
    return row


def run_harness(job: Job, folder: Path, cases: list[Case], results: str) -> dict:
    """The shared bench's own program over links to the results in folder/results; portraits in a gallery of 100."""
    bench = Path(job.shared) / "bench"
    judge = Path(job.judge) if job.judge else bench / "judge" / "mobilefacenet.onnx"
    scratch = folder / "harness"
    dev, pred = scratch / "dev", scratch / "pred"
    for part in (dev, pred):
        part.mkdir(parents=True, exist_ok=True)
        for item in part.iterdir():
            item.unlink()
    for name in ("gt", "images", "portraits.json"):
        (dev / name).symlink_to((bench / "dev" / name).absolute())
    names = (bench / "dev" / "portraits.txt").read_text().split()[:GALLERY]
    (dev / "portraits.txt").write_text("\n".join(names) + "\n")
    for case in cases:
        (pred / case.id).symlink_to((folder / results / case.id).absolute())
    command = [sys.executable, bench / "bench.py", dev, pred, "--idnet", judge, "--out", scratch / "result.json"]
    if portraits := [case for case in cases if case.kind == "portrait"]:
        queries = 1 + max(names.index(case.photo.name) for case in portraits)
        command += ["--photos", portraits[0].photo.parent, "--queries", str(queries)]
    print("Scoring ...", flush=True)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: the shared bench failed:\n{done.stderr[-2000:]}")
    return json.loads((scratch / "result.json").read_text("utf-8"))


def baselines(folder: Path) -> dict[str, dict]:
    """Name -> case id -> figures, of what ignores the photo or fits landmarks alone."""
    files = {name: folder / f"{stem}.json" for stem, name in BASELINES.items()}
    return {name: json.loads(file.read_text("utf-8"))["images"] for name, file in files.items() if file.is_file()}


def albedo_under_lights(folder: Path, cases: list[Case]) -> dict[str, float]:
    """Subject -> mean CIEDE2000 between its albedos from colour photos under different lights."""
    found: dict[str, float] = {}
    known = [case for case in cases if case.subject and case.kind != "series" and case.condition != "grayscale"]
    for subject in sorted({case.subject for case in known}):
        bundles = [folder / "pred" / case.id for case in known if case.subject == subject]
        value = score.light_invariance([bundle for bundle in bundles if (bundle / "albedo.png").exists()])
        if value is not None:
            found[subject] = value
    return found


# --- the table --------------------------------------------------------------------------------------------------------


def table(report: dict) -> str:
    """The report as text: groups and conditions, baselines, regions, identification, albedo, failures."""
    rows = {name: row for name, row in report["rows"].items() if row["kind"] != "series"}
    lines = [f"commit {report['commit'][:8]}, code {report['code']}, {json.dumps(report['job']['options'])}"]
    lines += ["NOTE: the backend was changed while this ran.", ""] if report["code_changed"] else [""]
    lines.append(f"{'mean (std)':24s}{'n':>4s}{'failed':>7s}" + "".join(f"{name:>15s}" for name in COLUMNS.values()))
    for name, chosen in sections(rows).items():
        cells = "".join(f"{cell(chosen, column):>15s}" for column in COLUMNS)
        failed = sum(not is_scored(row) for row in chosen)
        lines.append(f"{name:24s}{len(chosen):4d}{failed:7d}{cells}")
    if report["baselines"]:
        lines += ["", f"{'MICC mm':24s}{'this':>15s}" + "".join(f"{name[:22]:>24s}" for name in report["baselines"])]
        for name, chosen in sections(rows).items():
            if any("micc_mean" in row for row in chosen):
                others = ([known[row["id"]] for row in chosen if row["id"] in known]
                          for known in report["baselines"].values())  # fmt: skip
                lines.append(f"{name:24s}{cell(chosen, 'micc_mean'):>15s}"
                             + "".join(f"{cell(part, 'micc_mean'):>24s}" for part in others))  # fmt: skip
    regions = [name for name in score.REGIONS if any(f"region_{name}" in row for row in rows.values())]
    if regions:
        lines += ["", f"{'mm by region':24s}" + "".join(f"{name:>15s}" for name in regions)]
        for name, chosen in sections(rows).items():
            if any("micc_mean" in row for row in chosen):
                lines.append(f"{name:24s}" + "".join(f"{cell(chosen, f'region_{r}'):>15s}" for r in regions))
    people = sections_by_person(rows)
    if people:
        lines += ["", f"{'by person':24s}{'n':>4s}{'failed':>7s}" + "".join(f"{COLUMNS[c]:>15s}" for c in FIGURES)]
        for name, chosen in people.items():
            failed = sum(not is_scored(row) for row in chosen)
            cells = "".join(f"{cell(chosen, column):>15s}" for column in FIGURES)
            lines.append(f"{name:24s}{len(chosen):4d}{failed:7d}{cells}")
        lines.append("")
    for name, entry in report["now_pooled"].items():
        lines.append(f"NoW pooled over points, {name}: median {entry['median']:.3f} mean {entry['mean']:.3f}")
    for what in ("identification", "bare_identification"):
        known = report.get(what, {})
        lines += [f"{what.replace('_', ' ')}, {name}: rank-1 {entry['rank1']:.1%} of {known['gallery']}, "
                  f"matched {entry['matched']:.3f} mismatched {entry['mismatched']:.3f}"
                  for name, entry in known.items() if isinstance(entry, dict)]  # fmt: skip
    for subject, entry in report["series"].items():
        each = (", ".join(f"{value:.3f}" for value in entry[name]) for name in ("alone", "together"))
        lines.append("{}, {} photos: MICC mm of one {}, together {}".format(
            subject, ", ".join(map(str, SERIES[: len(entry["alone"])])), *each))  # fmt: skip
    if report["light_invariance"]:
        values = report["light_invariance"]
        each = ", ".join(f"{name} {value:.1f}" for name, value in values.items())
        lines.append(f"albedo between lights, CIEDE2000: mean {np.mean(list(values.values())):.1f} ({each})")
    pace = report["throughput"]
    growth = f", memory {pace['growth_mb_per_photo']:+.1f} MB a photo" if "growth_mb_per_photo" in pace else ""
    lines.append(f"{pace['photos_per_minute']:.2f} photos a minute ({pace['cpu_seconds_per_photo']:.1f} s CPU each), "
                 f"{pace['failed']} of {pace['photos']} failed, peak {pace['peak_mb']:.0f} MB{growth}")  # fmt: skip
    lines += [f"FAILED {row['id']}: {row['error']}" for row in report["rows"].values() if "error" in row]
    return "\n".join(lines) + "\n"


def sections(rows: dict[str, dict]) -> dict[str, list[dict]]:
    """Rows by condition, by group, what claims are made on, and all."""
    found: dict[str, list[dict]] = {}
    for row in rows.values():
        if row["condition"]:
            found.setdefault(row["condition"], []).append(row)
            if row["group"] in ("scan", "valid"):
                found.setdefault(f"scan+valid {row['condition']}", []).append(row)
        found.setdefault(f"group {row['group']}", []).append(row)
    return dict(sorted(found.items())) | {"all": list(rows.values())}


def sections_by_person(rows: dict[str, dict]) -> dict[str, list[dict]]:
    """Rows by sex and skin where a case names them, and by the tone of the albedo that was found."""
    found: dict[str, list[dict]] = {}
    for row in rows.values():
        for name, value in (("sex", row["sex"]), ("skin", row["skin"]), ("albedo", row.get("tone", ""))):
            if value:
                found.setdefault(f"{name} {value}", []).append(row)
    tones = [f"albedo {tone}" for tone in score.SKIN_TONES]
    return dict(sorted(found.items(), key=lambda item: (tones.index(item[0]) if item[0] in tones else -1, item[0])))


def is_scored(row: dict) -> bool:
    """Whether the fit succeeded and, where a head is known, was measured."""
    return "error" not in row and bool(row.get("ok", 1))


def cell(rows: list[dict], column: str) -> str:
    """Mean (std) of a column over the rows that have it."""
    values = [row[column] for row in rows if isinstance(row.get(column), float)]
    if not values:
        return "-"
    digits = 0 if column in ("peak_mb",) else 1 if "seconds" in column else 3 if column.startswith(("i", "p")) else 2
    return f"{np.mean(values):.{digits}f} ({np.std(values):.{digits}f})"


if __name__ == "__main__":
    main()
