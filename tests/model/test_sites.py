"""Names: of sites, where a layer's cannot be one, and of layers by patterns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dirprune
from dirprune.analysis.tree import load_tree, save_tree
from dirprune.model.errors import DirpruneError
from dirprune.model.graph.channels import ChannelGraph, build_channel_graph
from dirprune.model.graph.selection import select_sites
from dirprune.model.reasons import few, group_reasons
from dirprune.model.sites import site_name


class Odd(nn.Module):
    """Layers whose names mean something in NetCDF, in Pyro or in the DataTree."""

    NAMES = ("a/b", "a_b", "c d", "data", "targets", "chain", "last_unit", "sites")

    def __init__(self) -> None:
        super().__init__()
        width = 4
        for name in self.NAMES:
            self.add_module(name, nn.Linear(width, width + 1))
            width += 1
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.NAMES:
            x = self.get_submodule(name)(x).relu()
        return self.out(x)


@pytest.mark.parametrize("guide", ["dirichlet", "normal"])
def test_odd_names_go_through_guide_tree_file_and_surgery(guide: str, tmp_path: Path) -> None:
    network = Odd()
    data = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(2)]
    model = dirprune.SwitchedNetwork(network, data[0][0], num_data=16, prior="hierarchical:1:1")
    assert list(model.sites) == [
        "a_b", "a_b_", "c_d", "data_", "targets_", "chain_", "last_unit_", "sites",
    ]  # fmt: skip
    assert [s.producers[0] for s in model.sites.values()] == list(Odd.NAMES)
    fitted = dirprune.fit(model, guide, data, epochs=1)
    tree = dirprune.posterior(model, fitted, data, draws=10, cost_draws=2)
    save_tree(tree, tmp_path / "posterior.nc")
    again = load_tree(tmp_path / "posterior.nc")
    costs = dirprune.evidence("removal-cost", None, again)
    decision = dirprune.decide(again, costs, keep=0.5)
    assert set(decision.kept) == set(model.sites)
    smaller = dirprune.prune(model, decision)
    masked = dirprune.mask(model, decision)
    x = torch.randn(5, 4)
    # float32 sums of at most 12 terms, eight layers deep
    torch.testing.assert_close(smaller(x), masked(x), rtol=1e-4, atol=1e-5)
    # a layer is named as the network names it
    left = dirprune.SwitchedNetwork(network, data[0][0], num_data=16, exclude=["a_b", "c d"])
    assert list(left.sites) == ["a_b", "data_", "targets_", "chain_", "last_unit_", "sites"]


def test_usual_names_stay() -> None:
    for name in ("conv1", "features.0", "layer1.0.conv2", "a-b", "größe", "x[0]"):
        assert site_name(name) == name


@pytest.fixture(scope="module")
def blocks() -> ChannelGraph:
    """0.0, 0.1, 1.0, 1.1, and the output, 2."""

    def part() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    return build_channel_graph(nn.Sequential(part(), part(), nn.Linear(4, 2)), (torch.randn(2, 4),))


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        (["0.*"], None, ["0.0", "0.1"]),
        (["*.1"], None, ["0.1", "1.1"]),
        (None, ["1.?"], ["0.0", "0.1"]),
        (["0.*", "1.0"], ["*.0"], ["0.1"]),
        (None, ["2"], ["0.0", "0.1", "1.0", "1.1"]),  # the output is left alone anyway
        (["*"], None, ["0.0", "0.1", "1.0", "1.1"]),
    ],
)
def test_patterns_name_layers(
    include: list[str] | None, exclude: list[str] | None, left: list[str], blocks: ChannelGraph
) -> None:
    graph = select_sites(blocks, include, exclude)
    assert list(graph.sites) == left
    assert graph.unprunable["2"] == "it is the network's output"


@pytest.mark.parametrize(
    ("argument", "pattern", "expected"),
    [
        ("include", "3.*", r"unknown layer '3\.\*'"),
        ("exclude", "conv?", r"unknown layer 'conv\?'"),
        ("include", "2*", r"layer '2\*' cannot be pruned: it is the network's output"),
    ],
)
def test_patterns_that_fit_nothing(
    argument: str, pattern: str, expected: str, blocks: ChannelGraph
) -> None:
    with pytest.raises(DirpruneError, match=expected):
        select_sites(blocks, **{"include": None, "exclude": None, argument: [pattern]})


def test_a_name_with_brackets_is_a_name_first() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    network.add_module("[01]", nn.Linear(2, 2))
    graph = build_channel_graph(network, (torch.randn(2, 4),))
    assert list(select_sites(graph, None, ["[01]"]).sites) == ["0", "1"]


def test_reasons_are_told_once() -> None:
    reasons = {f"block.{i}.fc": f"no rule for 'f' in block.{i}.act" for i in range(12)}
    grouped = group_reasons({**reasons, "head": "it is the network's output"})
    assert grouped == {
        "no rule for 'f' in block.*.act": list(reasons),
        "it is the network's output": ["head"],
    }
    assert group_reasons({"a": "of 3 groups", "b": "of 4 groups"}) == {
        "of 3 groups": ["a"], "of 4 groups": ["b"],
    }  # fmt: skip
    assert few(list(reasons)) == "block.0.fc, block.1.fc, block.2.fc and 9 more"
