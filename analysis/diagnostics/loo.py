"""Leave-one-out on training images, at temperature 1."""

from __future__ import annotations

import warnings

import arviz as az
import numpy as np
import xarray as xr

from ...model.errors import DirpruneError
from .findings import LEAST_DRAWS, Finding, finding, from_sampler, group, log_weights, untied


def loo(tree: xr.DataTree) -> Finding:
    r"""The expected log predictive density of a training image whose label the switches have not
    seen, by ArviZ's PSIS-LOO.

    .. math:: \sum_i \log p(y_i | y_{-i}), \qquad
              w_{is} \propto \frac{p(s, y)}{q(s)} \, \frac{1}{p(y_i | x_i, s)}

    In-sample: the weights of the network were trained on these images, so that it compares priors
    and guides of one network, and is no estimate for new images (``elpd`` is). At temperature 1
    only: the weights take one whole factor p(y_i | s) out of the posterior, while a tempered one
    holds tau of it. Draws of a guide are corrected by p/q; those of NUTS need no correction. ``lp``
    scales n images up to all N, which widens the weights unless n = N. Threshold: every image's
    Pareto k.

    Raises:
        DirpruneError: a temperature other than 1, a guide without a density, too few draws.
    """
    temperature = float(tree.attrs.get("temperature", 1.0))
    if temperature != 1:
        raise DirpruneError(
            f"leave-one-out needs temperature 1, and this posterior has {temperature:.4g}"
        )
    each = untied(group(tree, "log_likelihood")["targets"])
    if (number := each.sizes["chain"] * each.sizes["draw"]) < LEAST_DRAWS:
        raise DirpruneError(f"expected at least {LEAST_DRAWS} draws, got {number}")
    tree = tree.copy()
    tree["log_likelihood"] = xr.DataTree(each.to_dataset(name="targets"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto")
        if from_sampler(tree):
            found = az.loo(tree, var_name="targets", pointwise=True)
        else:
            log_weights(tree)  # says what is missing
            stats = group(tree, "sample_stats")
            found = az.loo_approximate_posterior(
                tree, stats["lp"], stats["log_q"], var_name="targets", pointwise=True
            )
    images, k = int(found.n_data_points), np.asarray(found.pareto_k.values)
    bad = int((~(k <= found.good_k)).sum())
    value = {
        "elpd": float(found.elpd) / images,
        "se": float(found.se) / images if images > 1 else None,
        "parameters": float(found.p),
        "images": images,
        "bad_k": bad,
        "in_sample": True,
    }
    text = (
        f"In-sample leave-one-out: {value['elpd']:.4f} nats per image, standard error "
        f"{float(found.se) / images:.4f}, over {images:,} training images, with {found.p:.1f} "
        f"effective parameters. The network was trained on these images. Pareto k "
    )
    limit = f"{found.good_k:.2f}"
    if bad:
        text += f"exceeds {limit} for {bad} of them: the figure is not reliable."
        whole = int(tree.attrs.get("num_data", images))
        if whole > images and not from_sampler(tree):
            text += f" It stands for {whole:,} images by {images:,}; more of them would help."
    else:
        text += f"is below {limit} for all."
    return finding("loo", value, text, bad == 0)
