"""What the tests of the distributions share: quadrature on the simplex."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

Rule = Callable[[int], tuple[Tensor, Tensor]]


@pytest.fixture
def quadrature() -> Rule:
    """Points [n, K] on the simplex and their weights, for Lebesgue measure on s_1 .. s_{K-1}.

    Gauss-Legendre in s_1 and, for K = 3, in s_2 / (1 - s_1). No change to log-ratios, in which the
    densities are written: a wrong Jacobian there would cancel.
    """

    def rule(size: int) -> tuple[Tensor, Tensor]:
        x, w = np.polynomial.legendre.leggauss(200)
        u, w = torch.as_tensor((x + 1) / 2), torch.as_tensor(w / 2)
        if size == 2:
            return torch.stack([u, 1 - u], -1), w
        assert size == 3
        first, share = torch.meshgrid(u, u, indexing="ij")
        rest = 1 - first
        points = torch.stack([first, rest * share, rest * (1 - share)], -1)
        return points.reshape(-1, 3), (w.unsqueeze(-1) * w * rest).reshape(-1)

    return rule
