"""The logistic normal with a diagonal covariance, symmetric in its components."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints


class LogisticNormal(TorchDistribution):
    r"""The softmax of independent normals.

    .. math::
        s = \text{softmax}(\eta), \qquad \eta_k \sim N(\mu_k, \sigma_k^2), \quad k = 1 \dots K

    All K components have a normal, none is set aside as the reference, so that the family does not
    depend on their order. The price is one parameter too many: the same shift of all of mu changes
    nothing, since softmax does not see it.

    Its density integrates over that shift, :math:`c = \log \sum_k e^{\eta_k}`, in closed form. With
    :math:`r = \log s - \mu`, :math:`w = \sigma^{-2}`, :math:`W = \sum_k w_k` and
    :math:`\bar r = \sum_k w_k r_k / W`,

    .. math::
        p(s) &= \prod_k \frac{1}{s_k} \int N(\log s + c; \mu, \text{diag}\, \sigma^2) \, dc \\
        &= \prod_k \frac{1}{s_k \sigma_k \sqrt{2\pi}} \; \sqrt{\frac{2\pi}{W}} \;
        \exp\left(-\tfrac12 \sum_k w_k (r_k - \bar r)^2\right)

    Mean and variance have no closed form.

    Args:
        loc: mu, [..., K].
        scale: sigma, [..., K].

    References:
        J. Aitchison, S. M. Shen, "Logistic-normal distributions: Some properties and uses",
        Biometrika 67 (2), 1980.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.simplex
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None) -> None:
        if loc.dim() < 1 or scale.dim() < 1:
            raise ValueError("LogisticNormal: parameters must be at least one-dimensional")
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        shape = self.loc.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogisticNormal:
        new = self._get_checked_instance(LogisticNormal, _instance)
        shape = Size(batch_shape) + self.event_shape
        new.loc, new.scale = self.loc.expand(shape), self.scale.expand(shape)
        super(LogisticNormal, new).__init__(
            Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        noise = self.loc.new_empty(self._extended_shape(sample_shape)).normal_()
        return softmax(self.loc + self.scale * noise)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_s = value.log()
        residual, weight = log_s - self.loc, self.scale**-2
        total = weight.sum(-1, keepdim=True)
        # Centred before it is squared: the difference of two sums of squares loses digits.
        centred = residual - (weight * residual).sum(-1, keepdim=True) / total
        size = self.event_shape[0]
        return (
            -(log_s + self.scale.log() + 0.5 * weight * centred**2).sum(-1)
            - 0.5 * total.squeeze(-1).log()
            - 0.5 * (size - 1) * math.log(2 * math.pi)
        )


def softmax(eta: Tensor) -> Tensor:
    """softmax over the last dimension, above zero, so that log s is finite."""
    return torch.softmax(eta, -1).clamp(min=torch.finfo(eta.dtype).tiny)
