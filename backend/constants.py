# SPDX-License-Identifier: GPL-3.0-or-later
"""Small constant tensors, made once per device: to copy a few numbers to a GPU makes it wait."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch


def constant(values: Any, like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Numbers, or nested tuples of them, as a tensor of the type (or `dtype`) and on the device of `like`; not to be
    changed."""
    return _constant(values, dtype or like.dtype, like.device)


@lru_cache(maxsize=512)
def _constant(values: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return torch.tensor(values, dtype=dtype, device=device)
