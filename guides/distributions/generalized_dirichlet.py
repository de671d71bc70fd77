"""The generalized Dirichlet: a stick broken by independent Betas."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Beta, Dirichlet, constraints, kl_divergence
from torch.distributions.kl import register_kl


class GeneralizedDirichlet(TorchDistribution):
    r"""The generalized Dirichlet of Connor and Mosimann.

    .. math::
        s_k = z_k \prod_{j<k} (1 - z_j), \quad z_k \sim \text{Beta}(a_k, b_k), \quad k < K, \qquad
        s_K = \prod_{j<K} (1 - z_j)

    with the density, where :math:`r_k = \sum_{j>k} s_j` is what is left of the stick,

    .. math::
        p(s) = \prod_{k<K} \frac{s_k^{a_k-1} r_k^{b_k-1} r_{k-1}^{1-a_k-b_k}}{B(a_k, b_k)}

    It has K - 2 parameters more than the Dirichlet, so that components need not share one
    concentration, and neighbours may vary together. With :math:`b_k = \sum_{j>k} a_j`, and
    :math:`b_{K-1} = a_K`, it is the Dirichlet. The family depends on the order of the components.

    Args:
        concentration1: a, [..., K - 1]; K = 1 is legal: then s = 1.
        concentration0: b, [..., K - 1].

    References:
        Robert J. Connor, James E. Mosimann, "Concepts of Independence for Proportions with a
        Generalization of the Dirichlet Distribution", Journal of the American Statistical
        Association 64 (325), 1969.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "concentration1": constraints.independent(constraints.positive, 1),
        "concentration0": constraints.independent(constraints.positive, 1),
    }
    support = constraints.simplex
    has_rsample = True

    def __init__(
        self, concentration1: Tensor, concentration0: Tensor, *, validate_args: bool | None = None
    ) -> None:
        if concentration1.dim() < 1 or concentration0.dim() < 1:
            raise ValueError("GeneralizedDirichlet: parameters must be at least one-dimensional")
        self.concentration1, self.concentration0 = torch.broadcast_tensors(
            concentration1, concentration0
        )
        shape = self.concentration1.shape
        super().__init__(shape[:-1], Size([shape[-1] + 1]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GeneralizedDirichlet:
        new = self._get_checked_instance(GeneralizedDirichlet, _instance)
        shape = Size(batch_shape) + self.concentration1.shape[-1:]
        new.concentration1 = self.concentration1.expand(shape)
        new.concentration0 = self.concentration0.expand(shape)
        super(GeneralizedDirichlet, new).__init__(
            Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    @property
    def betas(self) -> Beta:
        """The Betas of the breaks z, batch shape [..., K - 1]."""
        return Beta(self.concentration1, self.concentration0, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        # Both z and 1 - z to full relative accuracy, however near to 0 and 1.
        both = torch.stack([self.concentration1, self.concentration0], -1)
        log_z = Dirichlet(both, validate_args=False).rsample(sample_shape).log()
        logs = _stick(log_z[..., 0], log_z[..., 1])
        # softmax: K roundings of a running sum would leave a float32 sum off 1.
        return torch.softmax(logs, -1).clamp(min=torch.finfo(logs.dtype).tiny)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b = self.concentration1, self.concentration0
        # What is left of the stick, from its end: 1 - cumsum has no digits where little is left.
        left = value[..., 1:].flip(-1).cumsum(-1).flip(-1)
        before = torch.cat([torch.ones_like(value[..., :1]), left], -1)[..., :-1]
        terms = torch.xlogy(a - 1, value[..., :-1]) + torch.xlogy(b - 1, left)
        terms = terms - torch.xlogy(a + b - 1, before)
        return (terms - _log_beta(a, b)).sum(-1)

    def entropy(self) -> Tensor:
        """The sum of the Betas' entropies and of E[log r_{k-1}], the log Jacobian."""
        a, b = self.concentration1, self.concentration0
        later = torch.arange(a.shape[-1] - 1, -1, -1, dtype=a.dtype, device=a.device)
        jacobian = later * (torch.digamma(b) - torch.digamma(a + b))
        return (self.betas.entropy() + jacobian).sum(-1)

    # -- moments: products of moments of the independent z -----------------------------------------

    def _log_mean(self) -> Tensor:
        total = (self.concentration1 + self.concentration0).log()
        return _stick(self.concentration1.log() - total, self.concentration0.log() - total)

    def _log_growth(self) -> Tensor:
        r""":math:`\sum_{i<k} \log E[(1-z_i)^2] / E[1-z_i]^2`, [..., K]."""
        a, b = self.concentration1, self.concentration0
        return _shifted(torch.log1p(a / (b * (a + b + 1))).cumsum(-1))

    @property
    def mean(self) -> Tensor:
        return self._log_mean().exp()

    @property
    def variance(self) -> Tensor:
        r""":math:`E[s_k]^2 (E[s_k^2] / E[s_k]^2 - 1)`, [..., K]."""
        a, b = self.concentration1, self.concentration0
        own = torch.log1p(b / (a * (a + b + 1)))
        own = torch.cat([own, torch.zeros_like(self._log_mean()[..., :1])], -1)
        return _times_expm1(2 * self._log_mean(), self._log_growth() + own)

    @property
    def covariance_matrix(self) -> Tensor:
        r""":math:`E[s_j] E[s_k] (E[s_j s_k] / (E[s_j] E[s_k]) - 1)`, [..., K, K].

        Off the diagonal, the ratio depends on the smaller index j alone: it is
        :math:`\frac{t_j}{t_j + 1} \prod_{i<j} E[(1-z_i)^2] / E[1-z_i]^2` with t = a + b.
        """
        total = self.concentration1 + self.concentration0
        log_mean = self._log_mean()
        last = torch.zeros_like(log_mean[..., :1])  # never the smaller index
        log_ratio = self._log_growth() - torch.cat([torch.log1p(1 / total), last], -1)
        index = torch.arange(log_mean.shape[-1], device=log_mean.device)
        smaller = torch.minimum(index.unsqueeze(-1), index)
        pairs = log_mean.unsqueeze(-1) + log_mean.unsqueeze(-2)
        covariance = _times_expm1(pairs, log_ratio[..., smaller])
        return torch.where(
            index.unsqueeze(-1) == index, torch.diag_embed(self.variance), covariance
        )


def _shifted(running: Tensor) -> Tensor:
    """Running sums [..., n] as sums over what came before, [..., n + 1]."""
    return torch.nn.functional.pad(running, (1, 0))


def _stick(log_z: Tensor, log_rest: Tensor) -> Tensor:
    """log s, [..., K], from log z and log(1 - z), [..., K - 1]."""
    return _shifted(log_rest.cumsum(-1)) + torch.nn.functional.pad(log_z, (0, 1))


def _times_expm1(log_factor: Tensor, x: Tensor) -> Tensor:
    """exp(log_factor) * (exp(x) - 1): no cancellation for small x, no overflow for large."""
    return torch.exp(log_factor + x.clamp(min=0)) * -torch.expm1(-x.abs()) * x.sign()


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


@register_kl(GeneralizedDirichlet, GeneralizedDirichlet)
def _kl_same(p: GeneralizedDirichlet, q: GeneralizedDirichlet) -> Tensor:
    return kl_divergence(p.betas, q.betas).sum(-1)


@register_kl(GeneralizedDirichlet, Dirichlet)
def _kl_dirichlet(p: GeneralizedDirichlet, q: Dirichlet) -> Tensor:
    # A Dirichlet's breaks are Beta(alpha_k, alpha_{k+1} + ... + alpha_K).
    alpha = q.concentration
    rest = alpha[..., 1:].flip(-1).cumsum(-1).flip(-1)
    breaks = Beta(alpha[..., :-1], rest, validate_args=False)
    return kl_divergence(p.betas, breaks).sum(-1)
