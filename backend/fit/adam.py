# SPDX-License-Identifier: GPL-3.0-or-later
"""Adam for a dozen tensors: the same numbers as torch's, which imports its compiler first and takes four seconds."""
from collections.abc import Sequence

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma & Ba 2015, Algorithm 1) on leaf tensors, each with a step size of its own.

    Made for so many steps as there are `factors`, by which the step sizes are multiplied. A step takes its number from
    a tensor: a GPU can repeat it without the program.
    """

    def __init__(self, rates: Sequence[tuple[Tensor, float]], factors: Sequence[float], betas: tuple[float, float],
                 epsilon: float = 1e-8):
        self.tensors, self.betas, self.epsilon = [tensor for tensor, _ in rates], betas, epsilon
        self.sizes = [tensor.numel() for tensor in self.tensors]
        device = self.tensors[0].device
        self.rates = torch.cat([torch.full((t.numel(),), rate, device=device) for t, rate in rates])
        self.mean, self.square = torch.zeros_like(self.rates), torch.zeros_like(self.rates)
        steps = torch.arange(1, len(factors) + 1, dtype=torch.float64)
        share = torch.tensor(factors, dtype=torch.float64) / (1 - betas[0]**steps)
        self.table = torch.stack([share, (1 - betas[1]**steps).sqrt()], 1).float().to(device)

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for tensor in self.tensors:
            tensor.grad = None

    @torch.no_grad()
    def step(self, index: Tensor) -> None:
        """The update number `index` (1,), from 0, from the gradients; a tensor without a gradient stays.

        What of a gradient is not a number counts as 0.
        """
        beta1, beta2 = self.betas
        slope = torch.cat([torch.zeros_like(t).flatten() if t.grad is None else t.grad.flatten() for t in self.tensors])
        slope = slope.nan_to_num(0.0, 0.0, 0.0)
        share, bias = self.table.index_select(0, index)[0].unbind()
        self.mean.lerp_(slope, 1 - beta1)
        self.square.mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
        spread = self.square.sqrt().div_(bias).add_(self.epsilon)
        change = self.mean.div(spread).mul_(self.rates).mul_(share)
        for tensor, part in zip(self.tensors, change.split(self.sizes), strict=True):
            tensor.sub_(part.view_as(tensor))
