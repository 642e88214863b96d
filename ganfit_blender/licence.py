# SPDX-License-Identifier: GPL-3.0-or-later
"""May I sell this? The answer for a result, from the licences of what it was made with; needs no Blender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

YES, NO, UNKNOWN = "yes", "no", "unknown"


@dataclass(frozen=True)
class Answer:
    """`verdict` is YES, NO or UNKNOWN; `rows` are the assets: name, licence, sellable (True, False, None)."""

    verdict: str
    rows: list[dict[str, Any]]


def answer(result: dict[str, Any], installed: list[dict[str, Any]] | None = None) -> Answer:
    """The answer for a `result.json`.

    Args:
        result: lists what was used under `licences`. Results of earlier versions only name what was installed then
            (`assets`); of those the backend's list is asked.
        installed: the backend's list (`assets.list`), where it is known.
    """
    rows = [row for row in result.get("licences", []) if isinstance(row, dict) and row.get("name")]
    if not rows:
        known = {str(asset.get("name")): asset for asset in installed or []}
        rows = [{"name": name, "licence": str(known.get(name, {}).get("licence", "not known")),
                 "sellable": known.get(name, {}).get("sellable")} for name in result.get("assets", {})]
    flags = [row.get("sellable") for row in rows]
    verdict = NO if False in flags else UNKNOWN if not flags or None in flags else YES
    return Answer(verdict, [{**row, "licence": str(row.get("licence", "not known"))} for row in rows])
