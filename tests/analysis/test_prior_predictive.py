"""What a prior believes before data, against exact cases."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.plots.prior import prior_figure
from dirprune.analysis.prior_predictive import prior_predictive, units_with_mass
from dirprune.model.errors import DirpruneError
from dirprune.model.priors import Dirichlet, Prior
from dirprune.model.sites import Site
from dirprune.model.switched import SwitchedNetwork


def make(size: int, prior: Any) -> SwitchedNetwork:
    network = nn.Sequential(nn.Linear(2, size), nn.Tanh(), nn.Linear(size, 2))
    return SwitchedNetwork(network, torch.zeros(2, 2), num_data=40, prior=prior)


# -- units that hold the mass ---------------------------------------------------------------------


def test_the_least_number_of_units() -> None:
    rows = [[0.95, 0.05, 0], [0.05, 0, 0.95], [0.94, 0.03, 0.03], [0.5, 0.5, 0], [0.3, 0.3, 0.4]]
    draws = torch.tensor(rows, dtype=torch.float64)
    # .94 + .03 = .97; .3 + .4 = .7.
    assert units_with_mass(draws).tolist() == [1, 1, 2, 2, 3]


def test_flat_prior_of_two_units() -> None:
    """P(one unit suffices) = P(max s >= .95) = .1, so that 1.9 units are expected."""
    number = 20_000
    found = prior_predictive(make(2, "symmetric"), draws=number)
    units = found.units["0"]
    assert units.mean == pytest.approx(1.9, abs=4 * 0.3 / math.sqrt(number))  # four errors
    assert (units.low, units.high) == (1.0, 2.0)
    assert found.counts["0"].shape == (number,)
    assert found.sizes == {"0": 2}
    assert found.held_out is None


@pytest.mark.parametrize(("size", "needed"), [(4, 4), (20, 19), (40, 38), (41, 39)])
def test_uniform_switches_need_nearly_all(size: int, needed: int) -> None:
    found = prior_predictive(make(size, "symmetric:1e9"), draws=100)
    # With K = 20, 19 shares of nearly 1/20 may fall just short of .95.
    assert found.units["0"].mean == pytest.approx(needed, abs=0 if size % 20 else 1)
    assert found.uniform == {"0": needed}


@pytest.mark.parametrize("size", [2, 40])
def test_sparse_switches_need_one(size: int) -> None:
    found = prior_predictive(make(size, "symmetric:0.0001"), draws=1000)
    # A second unit matters where two of the K stick fractions do: of the order of K alpha = .4 %.
    assert found.units["0"].mean == pytest.approx(1.0, abs=0.03)
    assert found.units["0"].high == 1.0


def test_a_prior_that_knows() -> None:
    def prior(site: Site) -> Dirichlet:
        return Dirichlet(1e8 * torch.tensor([0.3, 0.04, 0.5, 0.16], dtype=torch.float64))

    assert set(prior_predictive(make(4, prior), draws=50).counts["0"].tolist()) == {3}


# -- predictions ----------------------------------------------------------------------------------


class Vote(nn.Module):
    """Logits (g_0, 1.2 g_1) for every input: class 0 where s_0 > 1.2 s_1."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.a.weight.fill_(1.0)
            self.b.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.2]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def three_to_one(site: Site) -> Dirichlet:
    return Dirichlet(torch.tensor([3.0, 1.0], dtype=torch.float64))


IMAGES = torch.ones(40, 1, dtype=torch.float64)
LABELS = torch.tensor([0, 0, 0, 1]).repeat(10)


def vote(prior: Prior = three_to_one, **options: Any) -> SwitchedNetwork:
    return SwitchedNetwork(Vote().double(), IMAGES[:2], num_data=40, prior=prior, **options)


def loader(images: Tensor = IMAGES, labels: Tensor = LABELS) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, labels), batch_size=16)


def test_accuracy_and_density_of_a_known_network() -> None:
    number = 4000
    found = prior_predictive(vote(), loader(), draws=number).held_out
    assert found is not None
    assert found.images == 40
    assert found.accuracies is not None
    # A draw says 0 for all images (75 % right) or 1 for all (25 %).
    s0 = stats.beta(3, 1)
    p = float(s0.sf(1.2 / 2.2))
    assert set(np.round(found.accuracies, 9).tolist()) == {25.0, 75.0}
    error = 50 * math.sqrt(p * (1 - p) / number)
    assert found.accuracy is not None
    assert found.accuracy.mean == pytest.approx(75 * p + 25 * (1 - p), abs=4 * error)
    assert (found.accuracy.low, found.accuracy.high) == (25.0, 75.0)
    # The mixture's probability of class 0 is E sigmoid(2 s_0 - 2.4 s_1), above one half.
    mixed, _ = integrate.quad(lambda s: s0.pdf(s) / (1 + math.exp(2.4 * (1 - s) - 2 * s)), 0, 1)
    assert mixed > 0.5
    assert found.mixture == pytest.approx(75.0)
    # Its error: an sd of a probability below .25, of 4,000 draws; a quarter of the images have the
    # complement, whose logarithm is steeper by mixed / (1 - mixed) < 2.
    density = 0.75 * math.log(mixed) + 0.25 * math.log(1 - mixed)
    assert found.log_density == pytest.approx(density, abs=4 * 0.25 / math.sqrt(number))
    values = np.where(LABELS.numpy() == 0, math.log(mixed), math.log(1 - mixed))
    assert found.log_density_error == pytest.approx(values.std(ddof=1) / math.sqrt(40), rel=0.05)
    # The network itself, gains of 1, says 1 for all.
    assert found.network == pytest.approx(25.0)
    own = 1 / (1 + math.exp(0.2))
    expected = 0.75 * math.log(own) + 0.25 * math.log(1 - own)
    assert found.network_log_density == pytest.approx(expected, rel=1e-7)  # 1.2 was a float32


def test_the_network_itself_does_not_depend_on_the_scaling() -> None:
    found = prior_predictive(vote(scaling="simplex"), loader(), draws=10).held_out
    assert found is not None
    assert found.network == pytest.approx(25.0)
    own = 1 / (1 + math.exp(0.2))
    expected = 0.75 * math.log(own) + 0.25 * math.log(1 - own)
    assert found.network_log_density == pytest.approx(expected, rel=1e-7)  # 1.2 was a float32


def test_no_more_images_than_asked_for() -> None:
    found = prior_predictive(vote(), loader(), draws=5, images=17).held_out
    assert found is not None
    assert found.images == 17


def test_a_regression_has_a_density_and_no_accuracy() -> None:
    network = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    model = SwitchedNetwork(network, IMAGES[:2], num_data=40, likelihood="gaussian")
    found = prior_predictive(model, loader(labels=torch.zeros(40, 1).double()), draws=20).held_out
    assert found is not None
    assert found.accuracies is None
    assert found.accuracy is None
    assert found.mixture is None
    assert found.network is None
    assert math.isfinite(found.log_density)
    mean = float(network(IMAGES[:1]).detach())
    assert found.network_log_density == pytest.approx(stats.norm(mean, 1).logpdf(0), rel=1e-9)


# -- the rest -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["hierarchical", "half-cauchy", "weight-norm:0.5"])
def test_every_kind_of_prior(prior: str) -> None:
    model = make(6, prior)
    found = prior_predictive(model, loader(torch.randn(40, 2)), draws=30)
    assert set(found.counts) == {"0"}  # hyper-parameters are no units
    assert found.prior == repr(model.prior)
    assert json.loads(json.dumps(found.to_dict()))["sites"][0]["units"] == 6


def test_a_seed_gives_the_same_and_touches_nothing() -> None:
    model = vote()
    state = torch.random.get_rng_state()
    first = prior_predictive(model, loader(), draws=20, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    again = prior_predictive(model, loader(), draws=20, seed=4)
    other = prior_predictive(model, loader(), draws=20, seed=5)
    assert first.to_dict() == again.to_dict()
    assert first.to_dict() != other.to_dict()


def test_bad_arguments() -> None:
    with pytest.raises(DirpruneError, match="draws: expected at least 2, got 1"):
        prior_predictive(vote(), draws=1)
    with pytest.raises(DirpruneError, match="images: expected at least 2, got 0"):
        prior_predictive(vote(), loader(), images=0)
    with pytest.raises(DirpruneError, match="the loader is empty"):
        prior_predictive(vote(), loader(IMAGES[:0], LABELS[:0]))


def test_the_picture() -> None:
    flat, sparse = make(6, "symmetric"), make(6, "half-cauchy")
    images = torch.randn(40, 2)
    both = {
        "symmetric": prior_predictive(flat, loader(images), draws=30),
        "half-cauchy": prior_predictive(sparse, loader(images), draws=30),
    }
    figure = prior_figure(both)
    right, left = sorted(figure.axes, key=lambda axes: len(axes.get_yticklabels()), reverse=True)
    assert [text.get_text() for text in left.get_yticklabels()] == ["0 (6)"]
    assert [text.get_text() for text in right.get_yticklabels()] == list(both)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *both, "network itself", "mixture of the draws"
    ]  # fmt: skip
    without = prior_figure({"symmetric": prior_predictive(flat, draws=30)})
    assert len(without.axes) == 1
