"""What the tests of the guides share: a clean parameter store, and a guide with given values."""

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pytest
from torch import Tensor

from dirprune.guides import AutoDirichlet

Model = Callable[..., Any]


@pytest.fixture(autouse=True)
def clean_pyro() -> Iterator[None]:
    """Every test starts from the same seed and leaves nothing in Pyro's parameter store."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture(params=[False, True], ids=["global-store", "local-store"])
def store(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Run the test with Pyro's ``module_local_params`` off (Pyro's default), then on."""
    with pyro.settings.context(module_local_params=request.param):
        yield request.param


@pytest.fixture
def fixed_guide() -> Callable[..., AutoDirichlet]:
    """A guide with given concentrations: ``fixed_guide(model, s=tensor, ...)``."""

    def make(model: Model, *args: Any, **concentrations: Tensor) -> AutoDirichlet:
        guide = AutoDirichlet(model, prototype_args=args)
        for name, value in concentrations.items():
            setattr(guide, f"concentration/{name}", value)
            assert guide.concentration()[name].shape == value.shape
        return guide

    return make
