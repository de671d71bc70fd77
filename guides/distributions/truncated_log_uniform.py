"""The log-uniform between two bounds."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all


class TruncatedLogUniform(TorchDistribution):
    r"""What has a uniform logarithm between two bounds.

    .. math:: \text{LogU}_{[a,b]}(\theta) = \frac{1}{\theta \, (\log b - \log a)}

    Args:
        low: a > 0, [...].
        high: b > a, [...].
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "low": constraints.positive,
        "high": constraints.positive,
    }
    has_rsample = True

    def __init__(
        self, low: Tensor | float, high: Tensor | float, *, validate_args: bool | None = None
    ) -> None:
        self.low, self.high = broadcast_all(low, high)
        super().__init__(self.low.shape, validate_args=validate_args)
        if self._validate_args and not bool((self.low < self.high).all()):
            raise ValueError("TruncatedLogUniform: low must be less than high")

    def expand(self, batch_shape: Any, _instance: Any = None) -> TruncatedLogUniform:
        new = self._get_checked_instance(TruncatedLogUniform, _instance)
        new.low, new.high = self.low.expand(Size(batch_shape)), self.high.expand(Size(batch_shape))
        super(TruncatedLogUniform, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    @property
    def width(self) -> Tensor:
        """log b - log a."""
        return self.high.log() - self.low.log()

    @property
    def log_width(self) -> Tensor:
        """The entropy of log theta."""
        return self.width.log()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return -value.log() - self.log_width

    def cdf(self, value: Tensor) -> Tensor:
        return (value.log() - self.low.log()) / self.width

    def icdf(self, value: Tensor) -> Tensor:
        theta = (self.low.log() + value * self.width).exp()
        return torch.minimum(torch.maximum(theta, self.low), self.high)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return self.icdf(torch.rand(shape, dtype=self.low.dtype, device=self.low.device))

    @property
    def mean(self) -> Tensor:
        return (self.high - self.low) / self.width

    @property
    def variance(self) -> Tensor:
        return (self.high**2 - self.low**2) / (2 * self.width) - self.mean**2
