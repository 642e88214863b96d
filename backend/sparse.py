# SPDX-License-Identifier: GPL-3.0-or-later
"""Constant sparse matrices times dense columns, with gradients."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


class SparseMap:
    """A constant sparse matrix (R, C), CSR; its transpose is kept, which is faster than autograd's own."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.transposed = matrix.to_sparse_coo().t().coalesce().to_sparse_csr()

    @staticmethod
    def of_entries(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> SparseMap:
        """From its entries, in any order; those at one place are added."""
        with warnings.catch_warnings():  # PyTorch announces CSR as beta
            warnings.simplefilter("ignore")
            entries = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape, check_invariants=False)
            return SparseMap(entries.coalesce().to_sparse_csr())

    def __call__(self, columns: Tensor) -> Tensor:
        """(R, N) of dense columns (C, N)."""
        return _Product.apply(self, columns)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sparse: SparseMap, columns: Tensor) -> Tensor:
        ctx.sparse = sparse
        return sparse.matrix @ columns

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.sparse.transposed @ gradient.contiguous()
