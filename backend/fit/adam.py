# SPDX-License-Identifier: GPL-3.0-or-later
"""Adam for a dozen tensors: the same numbers as torch's, which imports its compiler first and takes four seconds."""
from collections.abc import Sequence

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma & Ba 2015, Algorithm 1) on leaf tensors, each with a step size of its own."""

    def __init__(self, rates: Sequence[tuple[Tensor, float]], betas: tuple[float, float], epsilon: float = 1e-8):
        self.rates, self.betas, self.epsilon, self.steps = list(rates), betas, epsilon, 0
        self.means = [(torch.zeros_like(tensor), torch.zeros_like(tensor)) for tensor, _ in self.rates]

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for tensor, _ in self.rates:
            tensor.grad = None

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """One update from the gradients, the step sizes times `factor`; a tensor without a gradient stays."""
        self.steps += 1
        beta1, beta2 = self.betas
        first_bias, second_bias = 1 - beta1**self.steps, 1 - beta2**self.steps
        for (tensor, rate), (first, second) in zip(self.rates, self.means, strict=True):
            if tensor.grad is None:
                continue
            first.lerp_(tensor.grad, 1 - beta1)
            second.mul_(beta2).addcmul_(tensor.grad, tensor.grad, value=1 - beta2)
            spread = (second.sqrt() / second_bias**0.5).add_(self.epsilon)
            tensor.addcdiv_(first, spread, value=-rate * factor / first_bias)
