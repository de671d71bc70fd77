"""What all tests share: one thread, one seed per test, and a helper for batch norms."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import hypothesis
import pytest
import torch
from torch import nn

# No deadline: a first example compiles and caches. Derandomised: a red test is red again.
hypothesis.settings.register_profile(
    "dirprune",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("dirprune")
torch.set_num_threads(1)
# A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that: the
# tests that interrupt a process would wait in vain.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Randomise = Callable[[nn.Module], nn.Module]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The command line's tests come first: theirs are the long runs that the tests of a file share.

    A process that has nothing left takes tests from the end of what the other one has, and makes
    again what these share: that had better be little.
    """
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, and from an empty Pyro store."""
    torch.manual_seed(0)
    if "pyro" in sys.modules:
        sys.modules["pyro"].clear_param_store()


@pytest.fixture(scope="session")
def with_few_draws() -> Callable[[], AbstractContextManager[None]]:
    """Within it, the command line takes 50 draws on 50 images where their quality is not the point.

    The usual 500 on 250 take most of the seconds of a small run, and 20 rounds of timing one more.
    """

    @contextmanager
    def few_draws() -> Iterator[None]:
        from dirprune.analysis.posterior import posterior
        from dirprune.inference.latency import measure_latency

        few = partial(posterior, draws=50, images=50, cost_draws=10, cost_images=50)
        with pytest.MonkeyPatch.context() as patch:
            for module in ("command.run", "analysis.compare.cell"):
                patch.setattr(f"dirprune.{module}.posterior", few)
            patch.setattr(
                "dirprune.command.run.measure_latency", partial(measure_latency, rounds=5)
            )
            yield

    return few_draws


@pytest.fixture
def few_draws(with_few_draws: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """One test of that kind."""
    with with_few_draws():
        yield


@pytest.fixture(scope="session")
def randomise_norms() -> Randomise:
    """Give batch norms statistics, scales (of both signs) and shifts as after training.

    At their initial values they are nearly the identity, and would hide what is wrong with them.
    """

    def randomise(network: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(1)

        def fill(tensor: torch.Tensor, low: float, high: float) -> None:
            values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(low + (high - low) * values)

        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    for tensor, low, high in (
                        (module.running_mean, -0.5, 0.5),
                        (module.running_var, 0.5, 2.0),
                        (module.weight, -0.5, 1.5),
                        (module.bias, -0.5, 0.5),
                    ):
                        if tensor is not None:
                            fill(tensor, low, high)
        return network

    return randomise
