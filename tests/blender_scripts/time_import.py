# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs the extension's zip and says how many seconds its Import operator takes for a bundle, as JSON.

The argument is JSON: zip, bundle.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy  # noqa: E402
from in_blender import empty_scene, install, leave, quiet_stdout  # noqa: E402


def main() -> None:
    job = json.loads(sys.argv[1])
    install(job["zip"])
    empty_scene()
    with quiet_stdout():
        wall, processor = time.perf_counter(), time.process_time()
        bpy.ops.ganfit.import_result(directory=job["bundle"])
        found = {"import": time.perf_counter() - wall, "import, processor": time.process_time() - processor}
    print(json.dumps(found), flush=True)
    leave()


if __name__ == "__main__":
    main()
