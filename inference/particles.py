"""Independent switches for parts of a batch, by one effect handler over model and guide."""

from __future__ import annotations

from typing import Any

from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample


class Particles(Messenger):
    r"""Draw every latent site P times, under a plate, and scale each draw by 1/P.

    A model that draws one switch for a batch has a noisy gradient: the whole batch shares the
    draw's luck. With P draws, each serving B/P of the examples, the expected ELBO is the same and
    the variance is lower wherever the examples agree about a switch, as on a trained network
    (digits-cnn, B = 64: .50, .32 and .22 of it at P = 4, 8 and 64), for the price of P draws from a
    Dirichlet. (On a network with random weights they cancel, and the variance is higher.)

    .. math::
        \frac{1}{P} \sum_p \log \frac{p(s_p)}{q(s_p)} +
        \frac{N}{B} \sum_i \log p(y_i \mid x_i, s_{i \bmod P})

    The handler must be around model *and* guide: ``TraceMeanField_ELBO`` takes the KL's scale from
    the guide, so that a model scaled alone counts the KL P times.

    Args:
        num: P. Sites inside a plate of their own are left as they are.
    """

    def __init__(self, num: int) -> None:
        super().__init__()
        self.num = num

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["cond_indep_stack"] or site_is_subsample(msg):
            return
        if msg["fn"].batch_shape != (self.num,):
            # Transformed sites of a guide come expanded: they are made from an expanded site.
            msg["fn"] = msg["fn"].expand((self.num,))
        frame = CondIndepStackFrame("_particles", -1, self.num, 0)
        msg["cond_indep_stack"] = (frame,)
        msg["scale"] = msg["scale"] / self.num
