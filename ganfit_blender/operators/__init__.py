# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators: one file per concept, each operator a thin shell over a job or a function of another module."""

from . import (
    backend,
    batch,
    body,
    export,
    expression,
    hair,
    paint,
    photos,
    pins,
    reconstruct,
    result,
    rig,
    sculpt,
    studio,
)

MODULES = (reconstruct, batch, result, photos, pins, backend, studio, paint, hair, expression, sculpt, rig, body,
           export)
CLASSES = tuple(cls for module in MODULES for cls in module.CLASSES)
