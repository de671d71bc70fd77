"""The logistic normal over several simplices whose components vary together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from .logistic_normal import softmax


class LowRankLogisticNormal(TorchDistribution):
    r"""Several simplices at once, by a normal with a factor covariance.

    .. math::
        \eta \sim N(\mu, \text{diag}(\sigma^2) + B B^\top), \qquad
        s_l = \text{softmax}(\eta_l) \text{ for each of the L simplices}

    A draw holds the simplices one after the other, [D] with :math:`D = \sum_l K_l`. Where B = 0
    they are independent, each a :class:`LogisticNormal`.

    The density on the product of the simplices integrates over one shift per simplex,
    :math:`c \in R^L`, and over the factors, :math:`\eta = \mu + B z + \sigma \epsilon`, in closed
    form. With :math:`r = \log s - \mu`, :math:`w = \sigma^{-2}`, :math:`W_l` the sum of w over
    simplex l, and a tilde for "less its w-weighted mean over each simplex" (the minimum over c),

    .. math::
        \log p(s) &= -\sum_k \log (s_k \sigma_k) - \tfrac12 \sum_l \log W_l
        - \tfrac{D - L}{2} \log 2\pi - \tfrac12 \log |C|
        - \tfrac12 \left( \sum_k w_k (\tilde r - \tilde B z)_k^2 + z^\top z \right) \\
        C &= I + \tilde B^\top \text{diag}(w) \tilde B, \qquad
        z = C^{-1} \tilde B^\top \text{diag}(w) \tilde r

    This equals :math:`(2\pi)^{-(D-L)/2} |\Sigma|^{-1/2} |E^\top \Sigma^{-1} E|^{-1/2} \exp(-Q/2)
    \prod_k s_k^{-1}` with E the indicators of the simplices and Q the quadratic form of
    :math:`\Sigma^{-1}` with E projected out, at a cost of :math:`D R^2 + R^3` for rank R.

    Args:
        loc: mu, [..., D].
        factor: B, [..., D, R].
        scale: sigma, [..., D].
        sizes: the sizes :math:`K_l` of the simplices.

    References:
        J. Aitchison, S. M. Shen, "Logistic-normal distributions: Some properties and uses",
        Biometrika 67 (2), 1980; Victor M.-H. Ong, David J. Nott, Michael S. Smith, "Gaussian
        variational approximation with a factor covariance structure", 2018, arXiv 1701.03208.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "factor": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 1),
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        factor: Tensor,
        scale: Tensor,
        sizes: Sequence[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.sizes = tuple(sizes)
        if not loc.shape[-1:] == scale.shape[-1:] == factor.shape[-2:-1] == (sum(self.sizes),):
            raise ValueError(
                f"LowRankLogisticNormal: expected loc and scale [..., {sum(self.sizes)}] and "
                f"factor [..., {sum(self.sizes)}, rank] for the sizes {self.sizes}, but got "
                f"{tuple(loc.shape)}, {tuple(scale.shape)} and {tuple(factor.shape)}"
            )
        # Not expanded to the batch: what depends on them alone is computed once for all draws.
        self.loc, self.factor, self.scale = loc, factor, scale
        self._segment = torch.repeat_interleave(
            torch.arange(len(self.sizes)), torch.tensor(self.sizes)
        ).to(loc.device)
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], factor.shape[:-2], scale.shape[:-1])
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LowRankLogisticNormal:
        new = self._get_checked_instance(LowRankLogisticNormal, _instance)
        new.loc, new.factor, new.scale = self.loc, self.factor, self.scale
        new.sizes, new._segment = self.sizes, self._segment
        super(LowRankLogisticNormal, new).__init__(
            Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    @property
    def support(self) -> constraints.Constraint:
        return _Simplices(self.sizes)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        noise = self.loc.new_empty(shape).normal_()
        z = self.loc.new_empty(*shape[:-1], self.factor.shape[-1]).normal_()
        eta = self.loc + _apply(self.factor, z) + self.scale * noise
        return torch.cat([softmax(part) for part in eta.split(self.sizes, -1)], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # The parameters are not expanded, so the value is.
        shape = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        log_s, weight = value.log().expand(shape), self.scale**-2
        total = self._sums(weight)
        residual = self._centred(log_s - self.loc, weight, total)
        factor = self._centred(self.factor.mT, weight.unsqueeze(-2), total.unsqueeze(-2)).mT
        weighted = (weight.unsqueeze(-1) * factor).mT
        rank = factor.shape[-1]
        capacitance = weighted @ factor + torch.eye(rank, dtype=value.dtype, device=value.device)
        root = torch.linalg.cholesky(capacitance)
        z = torch.cholesky_solve(_apply(weighted, residual).unsqueeze(-1), root).squeeze(-1)
        # The quadratic form as its minimum over z: positive, whatever the rounding of z.
        unexplained = residual - _apply(factor, z)
        return (
            -(log_s + self.scale.log() + 0.5 * weight * unexplained**2).sum(-1)
            - 0.5 * (z**2).sum(-1)
            - 0.5 * total.log().sum(-1)
            - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            - 0.5 * (len(self._segment) - len(self.sizes)) * math.log(2 * math.pi)
        )

    def _sums(self, x: Tensor) -> Tensor:
        """Sums over each simplex, [..., D] -> [..., L]."""
        zeros = x.new_zeros(*x.shape[:-1], len(self.sizes))
        return zeros.index_add(-1, self._segment, x)

    def _centred(self, x: Tensor, weight: Tensor, total: Tensor) -> Tensor:
        """x, [..., D], less its weighted mean over each simplex."""
        return x - (self._sums(weight * x) / total)[..., self._segment]


class _Simplices(constraints.Constraint):
    """Several simplices in one vector."""

    event_dim = 1

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)

    def check(self, value: Tensor) -> Tensor:
        parts = [constraints.simplex.check(part) for part in value.split(self.sizes, -1)]
        return torch.stack(parts, -1).all(-1)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
