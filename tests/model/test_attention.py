"""Attention: heads are units, and the slim modules compute what the original ones do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer, maxvit, swin_transformer

import dirprune
from dirprune import Decision, DirpruneError, SwitchedNetwork
from dirprune.model.attention import grid, multihead, windowed
from dirprune.model.cost import count_macs, count_params
from dirprune.model.graph.examples import Examples
from dirprune.model.resizing import RESIZERS, full_name, register_resizer
from dirprune.model.switched import ATTENTION


class Classifier(nn.Module):
    """A block on a stream of tokens, and a linear layer on their mean."""

    def __init__(self, block: nn.Module, width: int, **kwargs: Any) -> None:
        super().__init__()
        self.block, self.head, self.kwargs = block, nn.Linear(width, 3), kwargs

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(x, **self.kwargs)
        return self.head(out.flatten(1, -2).mean(1))


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` of a stream with itself, however its options are."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.first = bool(options.get("batch_first"))
        self.need_weights = options.pop("need_weights", False)
        self.inner = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 4, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.inner(x))
        x = x if self.first else x.transpose(0, 1)
        out = self.attention(x, x, x, need_weights=self.need_weights)[0]
        return out if self.first else out.transpose(0, 1)


class CrossAttention(nn.Module):
    """Queries from one stream, keys and values from a shorter one."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True, **options)
        self.memory = nn.Linear(8, options.get("kdim", 8))

    def forward(self, x: Tensor) -> Tensor:
        memory = F.tanh(self.memory(x[:, :3]))
        return self.attention(x, memory, memory)[0]


class OwnAttention(nn.Module):
    """As people write it: the number of heads is an attribute, the width comes from it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).reshape(batch, tokens, -1))


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(8, 4, 16, batch_first=True)
        self.inner = nn.TransformerDecoder(layer, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x[:, :3] * 2)


# name -> (the network, one example's shape, the sites of heads, other sites)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str], list[str]]] = {
    "batch first": (
        lambda: SelfAttention(batch_first=True), (5, 6),
        ["block.attention"], ["block.inner", "block.attention.out_proj"],
    ),
    "batch second": (
        SelfAttention, (5, 6), ["block.attention"], ["block.inner", "block.attention.out_proj"]
    ),
    "with weights": (
        lambda: SelfAttention(batch_first=True, need_weights=True), (5, 6),
        ["block.attention"], ["block.inner", "block.attention.out_proj"],
    ),
    "without bias": (
        lambda: SelfAttention(bias=False), (5, 6),
        ["block.attention"], ["block.inner", "block.attention.out_proj"],
    ),
    "cross attention": (
        CrossAttention, (5, 8), ["block.attention"], ["block.attention.out_proj"]
    ),
    "other widths": (
        lambda: CrossAttention(kdim=6, vdim=6), (5, 8),
        ["block.attention"], ["block.memory", "block.attention.out_proj"],
    ),
    "encoder": (
        encoder, (5, 8), [f"block.layers.{i}.self_attn" for i in (0, 1)],
        [f"block.layers.{i}.linear1" for i in (0, 1)],
    ),
    "encoder, norm first": (
        lambda: encoder(norm_first=True, activation="gelu"), (5, 8),
        [f"block.layers.{i}.self_attn" for i in (0, 1)],
        [f"block.layers.{i}.linear1" for i in (0, 1)],
    ),
    "decoder": (
        Decoder, (5, 8),
        [f"block.inner.layers.0.{a}" for a in ("self_attn", "multihead_attn")],
        ["block.inner.layers.0.linear1"],
    ),
    "swin": (
        lambda: swin_transformer.SwinTransformerBlock(8, 4, [4, 4], [2, 2]), (6, 6, 8),
        ["block.attn.qkv"], ["block.mlp.0"],
    ),
    "swin, window as large as the image": (
        lambda: swin_transformer.SwinTransformerBlock(8, 4, [4, 4], [2, 2]), (4, 7, 8),
        ["block.attn.qkv"], ["block.mlp.0"],
    ),
    "swin v2": (
        lambda: swin_transformer.SwinTransformerBlockV2(8, 4, [4, 4], [2, 2]), (6, 6, 8),
        ["block.attn.qkv"], ["block.mlp.0"],
    ),
    "maxvit": (
        lambda: maxvit.RelativePositionalMultiHeadAttention(16, 4, 9), (4, 9, 16),
        ["block.to_qkv"], ["block.merge"],
    ),
}  # fmt: skip


def build(case: str) -> tuple[nn.Module, Tensor]:
    make, shape, *_ = CASES[case]
    torch.manual_seed(0)
    block = make()
    width = 8 if shape[-1] == 6 else shape[-1]
    network = Classifier(block, width).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)  # tables of positions start at zero
    return network, torch.randn(4, *shape)


def halved(model: SwitchedNetwork) -> Decision:
    torch.manual_seed(1)
    kept = {
        name: torch.randperm(site.size)[: site.size // 2].sort().values
        for name, site in model.sites.items()
    }
    return Decision(kept)


@pytest.fixture(scope="module", params=[(c, a) for c in CASES for a in ATTENTION], ids=" ".join)
def known(request: pytest.FixtureRequest) -> tuple[str, str, SwitchedNetwork, Tensor]:
    case, attention = request.param
    network, x = build(case)
    return case, attention, SwitchedNetwork(network, x[:2], num_data=10, attention=attention), x


Known = tuple[str, str, SwitchedNetwork, Tensor]


def test_each_head_or_each_of_its_features_is_a_unit(known: Known) -> None:
    case, attention, model, _ = known
    _, shape, heads, others = CASES[case]
    if (case, attention) == ("swin v2", "head-dims"):
        # Its queries and keys are normalised over a head's features.
        assert list(model.sites) == others
        assert "linalg_vector_norm" in model.unprunable["block.attn.qkv"]
        return
    if (case, attention) == ("other widths", "head-dims"):
        # Queries with keys, and values, have weights of their own, and sites.
        others = [*others, "block.attention.v_proj_weight"]
    assert sorted(model.sites) == sorted([*heads, *others])
    width = {6: 8}.get(shape[-1], shape[-1])
    want = 4 if attention == "heads" else width // 4
    assert {model.sites[name].size for name in heads} == {want}


def test_masked_equals_pruned(known: Known) -> None:
    _, _, model, x = known
    decision = halved(model)
    pruned = dirprune.prune(model, decision)
    with torch.no_grad():
        masked = dirprune.mask(model, decision).double()(x.double())
        out = copy.deepcopy(pruned).double()(x.double())
        # Without gradients and in eval mode: where torch's fused path would be taken.
        frozen = pruned.requires_grad_(False)(x)
    scale = masked.abs().max()
    assert (masked - out).abs().max() < 1e-10 * scale  # float64 rounding
    assert (masked - frozen).abs().max() < 1e-5 * scale  # float32 rounding
    pruned.requires_grad_(True).train()(x).sum().backward()
    assert all(p.grad is not None for p in pruned.parameters() if p.numel())


def test_costs_are_those_of_the_pruned_network(known: Known) -> None:
    case, _, model, x = known
    decision = halved(model)
    pruned = dirprune.prune(model, decision)
    assert model.costs.total("params", decision.kept) == count_params(pruned)
    if case != "swin v2":  # its table of positions is made once a batch, and counted by halves
        assert model.costs.total("macs", decision.kept) == count_macs(pruned, (x[:2],))


def test_each_example_has_its_own_gains(known: Known) -> None:
    """Wherever the batch lies (merged with windows, second axis), example i takes row i mod P."""
    _, _, model, x = known
    torch.manual_seed(2)
    rows = {name: torch.rand(2, site.size) for name, site in model.sites.items()}
    with torch.no_grad():
        together = model.outputs_at_gains(x, rows)
        alone = torch.cat(
            [
                model.outputs_at_gains(x[i : i + 1], {n: g[i % 2, None] for n, g in rows.items()})
                for i in range(len(x))
            ]
        )
    assert torch.allclose(together, alone, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3  # or the rows would not matter


def test_gain_zero_is_removal(known: Known) -> None:
    _, _, model, x = known
    decision = halved(model)
    gains = {
        name: torch.zeros(1, site.size).index_fill_(1, decision.kept[name], 1.0)
        for name, site in model.sites.items()
    }
    with torch.no_grad():
        masked = dirprune.mask(model, decision)(x)
        assert torch.allclose(model.outputs_at_gains(x, gains), masked, atol=1e-5)


def test_save_and_load(known: Known, tmp_path: Path) -> None:
    case, _, model, x = known
    pruned = dirprune.prune(model, halved(model))
    dirprune.save(tmp_path / "net", pruned)
    loaded = dirprune.load(tmp_path / "net", network=build(case)[0])
    with torch.no_grad():
        assert torch.equal(loaded(x), pruned.eval()(x))


def test_an_unpruned_module_keeps_its_class() -> None:
    """Only modules that shrank change their class, and loading does not either."""
    network, x = build("encoder")
    model = SwitchedNetwork(network, x[:2], num_data=10)
    kept = {
        name: torch.arange(site.size // (2 if name.endswith("0.self_attn") else 1))
        for name, site in model.sites.items()
    }
    layers: Any = dirprune.prune(model, Decision(kept)).block
    assert type(layers.layers[0].self_attn) is multihead.SlimMultiheadAttention
    assert type(layers.layers[1].self_attn) is nn.MultiheadAttention


MASKS: dict[str, Any] = {
    "none": {},
    "weights": {"need_weights": True},
    "weights of each head": {"need_weights": True, "average_attn_weights": False},
    "float mask": {"attn_mask": torch.randn(5, 5)},
    "causal": {"attn_mask": torch.ones(5, 5).triu(1).bool(), "is_causal": True},
    "padding": {"key_padding_mask": torch.arange(5).repeat(3, 1) > torch.tensor([[4], [2], [3]])},
    "both, weights": {
        "attn_mask": torch.randn(3 * 4, 5, 5),
        "key_padding_mask": torch.randn(3, 5),
        "need_weights": True,
    },
}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("arguments", MASKS.values(), ids=list(MASKS))
def test_slim_multihead_of_all_heads_is_the_original(
    arguments: dict[str, Any], batch_first: bool
) -> None:
    torch.manual_seed(0)
    original = nn.MultiheadAttention(8, 4, batch_first=batch_first).double()
    slim = copy.deepcopy(original)
    multihead.slim(slim)
    x, y = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    x, y = (x, y) if batch_first else (x.transpose(0, 1), y.transpose(0, 1))
    arguments = {"need_weights": False, **arguments}
    arguments = {
        k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in arguments.items()
    }
    for got, want in zip(slim(x, y, y, **arguments), original(x, y, y, **arguments), strict=True):
        assert (got is None) == (want is None)
        assert got is None or torch.allclose(got, want, rtol=1e-10, atol=1e-12)


def test_slim_multihead_without_a_batch() -> None:
    torch.manual_seed(0)
    original = nn.MultiheadAttention(8, 4).double()
    slim = copy.deepcopy(original)
    multihead.slim(slim)
    x = torch.randn(5, 8, dtype=torch.float64)
    for got, want in zip(slim(x, x, x), original(x, x, x), strict=True):
        assert torch.allclose(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["ShiftedWindowAttention", "ShiftedWindowAttentionV2"])
@pytest.mark.parametrize("size", [(8, 8), (6, 9), (4, 7), (3, 3)])
@pytest.mark.parametrize("shift", [(0, 0), (2, 2), (0, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_slim_windows_of_all_heads_are_the_original(
    kind: str, size: tuple[int, int], shift: tuple[int, int], bias: bool
) -> None:
    torch.manual_seed(0)
    make = getattr(swin_transformer, kind)
    original = make(8, [4, 4], list(shift), 4, qkv_bias=bias).double().eval()
    for parameter in original.parameters():
        nn.init.normal_(parameter, std=0.3)
    slim = copy.deepcopy(original)
    windowed.slim(slim)
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    assert torch.allclose(slim(x), original(x), rtol=1e-10, atol=1e-12)


def test_slim_grid_of_all_heads_is_the_original() -> None:
    torch.manual_seed(0)
    original = maxvit.RelativePositionalMultiHeadAttention(16, 4, 9).double()
    slim = copy.deepcopy(original)
    grid.slim(slim)
    x = torch.randn(2, 4, 9, 16, dtype=torch.float64)
    assert torch.allclose(slim(x), original(x), rtol=1e-10, atol=1e-12)


def test_the_users_own_attention() -> None:
    """The number of its heads stands in an attribute whose name says so."""
    network = Classifier(OwnAttention(8, 4), 8)
    model = SwitchedNetwork(network, torch.randn(2, 5, 8), num_data=10)
    assert model.sites["block.qkv"].size == 4
    pruned: Any = dirprune.prune(model, halved(model))
    assert (pruned.block.heads, network.block.heads) == (2, 4)
    assert pruned.block.qkv.out_features == 12


class Twice(nn.Module):
    """Two attentions in one forward, which share the attribute that holds their heads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.first, self.second = nn.Linear(8, 24), nn.Linear(8, 24)
        self.out = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for qkv, out in zip((self.first, self.second), self.out, strict=True):
            q, k, v = qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            x = out(F.scaled_dot_product_attention(q, k, v, scale=0.7).transpose(1, 2).flatten(2))
        return x


def test_attentions_that_share_the_number_of_their_heads_lose_the_same() -> None:
    network = Classifier(Twice(), 8)
    x = torch.randn(2, 5, 8)
    model = SwitchedNetwork(network, x, num_data=10)
    assert model.sites["block.first"].producers == ("block.first", "block.second")
    assert model.sites["block.first"].size == 4
    pruned: Any = dirprune.prune(model, halved(model))
    assert pruned.block.num_heads == 2
    assert pruned.block.second.out_features == 12


class Unnamed(OwnAttention):
    """One that holds what it needs under a name that nobody could guess."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        del self.heads
        self.split = (3, heads, width // heads)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, self.split).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).flatten(-2))


def test_a_resizer_for_what_no_parameter_shows() -> None:
    """Without one its heads are left alone, and the reason says what to write."""
    network = Classifier(Unnamed(8, 4), 8)
    x = torch.randn(2, 5, 8)
    plain = SwitchedNetwork(network, x, num_data=10)
    assert "block.qkv" not in plain.sites
    assert "register_resizer" in plain.unprunable["block.qkv"]

    try:

        @register_resizer(Unnamed)
        def _resize(module: Unnamed) -> None:
            heads = module.qkv.out_features // (3 * module.head_dim)
            module.split = (3, heads, module.head_dim)

        model = SwitchedNetwork(network, x, num_data=10)
        assert model.sites["block.qkv"].size == 4
        pruned: Any = dirprune.prune(model, halved(model))
        assert pruned.block.split == (3, 2, 2)
    finally:
        del RESIZERS[full_name(Unnamed)]


def test_unknown_units_of_attention_are_refused() -> None:
    network, x = build("batch first")
    with pytest.raises(DirpruneError, match=r"units of attention 'head'.*'heads'"):
        SwitchedNetwork(network, x, num_data=10, attention="head")


def test_a_vision_transformer_keeps_its_stream_and_loses_heads_and_hidden_units() -> None:
    torch.manual_seed(0)
    network = VisionTransformer(16, 8, 2, 4, 8, 12, num_classes=3)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)  # its head starts at zero
    x = torch.randn(2, 3, 16, 16)
    model = SwitchedNetwork(network, x, num_data=10)
    layers = [f"encoder.layers.encoder_layer_{i}" for i in (0, 1)]
    sizes = {f"{layer}.self_attention": 4 for layer in layers}
    sizes |= {f"{layer}.mlp.0": 12 for layer in layers}
    assert {name: site.size for name, site in model.sites.items()} == sizes
    stream = {why for layer, why in model.unprunable.items() if layer != "heads.head"}
    assert len(stream) == 1
    assert "layer norm" in stream.pop()
    decision = halved(model)
    with torch.no_grad():
        masked = dirprune.mask(model, decision).double().eval()(x.double())
        pruned = dirprune.prune(model, decision).double().eval()(x.double())
    assert (masked - pruned).abs().max() < 1e-10 * masked.abs().max()  # float64 rounding


class Tokens(nn.Module):
    """A class token and embeddings of positions, on a stream that no layer norm reads."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.attention = OwnAttention(8, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head((x + self.attention(x))[:, 0])


def test_class_tokens_and_embeddings_of_positions_shrink_with_their_stream() -> None:
    x = torch.randn(2, 3, 8, 8)
    model = SwitchedNetwork(Tokens(), x, num_data=10)
    assert {n: s.size for n, s in model.sites.items()} == {"patches": 8, "attention.qkv": 2}
    pruned: Any = dirprune.prune(model, halved(model))
    assert pruned.token.shape == (1, 1, 4)
    assert pruned.positions.shape == (1, 5, 4)
    assert model.sites["patches"].producers == ("patches", "attention.out")


def test_attention_whose_averaged_weights_are_an_output_is_left_alone() -> None:
    """Averaged over its heads, the weights change with each that is removed."""

    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            out, weights = self.attention(x, x, x)
            return self.head(out.mean(1)), weights

    model = SwitchedNetwork(Weights(), torch.randn(2, 5, 8), num_data=10, output=lambda out: out[0])
    assert "attention" not in model.sites
    assert "sums over units" in model.unprunable["attention"]


class Stream(nn.Module):
    """Two layers that read units, with something between them that moves the examples."""

    def __init__(self, move: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 10), nn.Linear(10, 3)
        self.move, self.back = move, back

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.move(self.a(x).relu())).relu()
        return self.c(self.back(h).mean(1))


@pytest.mark.parametrize(
    ("move", "back"),
    [
        (lambda h: h.flip(0), lambda h: h.flip(0)),
        (lambda h: h[torch.arange(h.shape[0] - 1, -1, -1)], lambda h: h.flip(0)),
        (lambda h: F.pad(h, (0, 0, 0, 0, 1, 0)), lambda h: h[1:]),
        (lambda h: h.flip(0).flatten(0, 1).unflatten(0, (-1, 5)), lambda h: h.flip(0)),
    ],
    ids=["flipped", "looked up", "shifted", "flipped and merged"],
)
def test_gains_are_refused_where_nobody_knows_the_order_of_the_examples(
    move: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> None:
    with pytest.raises(DirpruneError, match=r"a: it is not known which .* \(linear in b\)"):
        SwitchedNetwork(Stream(move, back), torch.randn(3, 5, 6), num_data=10)


@pytest.mark.parametrize(
    ("move", "back"),
    [
        (lambda h: h.flip(1), lambda h: h[:, [0, 2]]),
        (lambda h: torch.cat([h, 2 * h]), lambda h: sum(h.chunk(2))),
        (lambda h: h.repeat(2, 1, 1), lambda h: h.chunk(2)[1]),
        (lambda h: h.flatten(0, 1), lambda h: h.unflatten(0, (-1, 5))),
    ],
    ids=["other axis", "two copies", "repeated", "merged"],
)
def test_gains_follow_the_examples(
    move: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5, 6)
    model = SwitchedNetwork(Stream(move, back), x, num_data=10)
    assert set(model.sites) == {"a", "b"}
    rows = {name: torch.rand(3, site.size) for name, site in model.sites.items()}
    with torch.no_grad():
        together = model.outputs_at_gains(x, rows)
        for i in range(6):
            own = {name: gains[i % 3, None] for name, gains in rows.items()}
            # float32 rounding
            assert torch.allclose(together[i], model.outputs_at_gains(x, own)[i], atol=1e-5)


def test_the_gain_of_a_product_acts_once() -> None:
    """Also where both factors are one value: twice the gain is twice the product."""

    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(25, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(torch.einsum("btc,bsc->bts", h, h).flatten(1))

    x = torch.randn(2, 5, 6)
    model = SwitchedNetwork(Gram(), x, num_data=10)
    twice = {name: 2 * gain for name, gain in model.unit_gains().items()}
    with torch.no_grad():
        torch.testing.assert_close(model.outputs_at_gains(x, twice), 2 * model.network(x))


def test_every_layer_is_a_site_or_left_alone() -> None:
    """Also one that eval mode never calls, and one whose weight is read by something else."""

    class Forgotten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.aux = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(6, 3)
            self.odd = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(torch.einsum("bf,of->bo", x, self.odd.weight)).relu()
            return self.b(h) + (self.aux(x) if self.training else 0)

    model = SwitchedNetwork(Forgotten(), torch.randn(2, 6), num_data=10)
    assert model.unprunable["aux"] == "aux.weight is not used in eval mode"
    assert "einsum reads odd.weight" in model.unprunable["odd"]


def test_a_resizer_that_fails_is_named() -> None:
    try:

        @register_resizer(Unnamed)
        def _resize(module: Unnamed) -> None:
            raise KeyError("oops")

        model = SwitchedNetwork(
            Classifier(nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8), Unnamed(8, 4)), 8),
            torch.randn(2, 5, 8), num_data=10,
        )  # fmt: skip
        assert "the resizer of Unnamed fails: KeyError: 'oops'" in model.unprunable["block.2.qkv"]
    finally:
        del RESIZERS[full_name(Unnamed)]


@pytest.mark.parametrize("kind", [3, nn.Linear(2, 2), int])
def test_a_resizer_is_of_a_class_of_modules(kind: Any) -> None:
    with pytest.raises(DirpruneError, match="expected a class of modules"):
        register_resizer(kind)
    with pytest.raises(DirpruneError, match="function of the module"):
        register_resizer(Unnamed)(kind if kind == 3 else None)


@pytest.mark.parametrize(
    ("examples", "want"),
    [
        (Examples(0), [0, 1, 2]),
        (Examples(0, 2, 2), [0, 0, 1, 1, 2, 2]),
        (Examples(0, 1, 2), [0, 1, 2, 0, 1, 2]),
        (Examples(0, 2, 4), [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]),
    ],
)
def test_rows_are_spread_over_the_entries_of_their_example(
    examples: Examples, want: list[int]
) -> None:
    assert examples.spread(torch.arange(3)[:, None])[:, 0].tolist() == want
