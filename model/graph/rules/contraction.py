"""Products that sum over axes: attention's scores and averages, and weights without a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, fx

from ..labels import FIXED, Labels
from ..propagation import Propagation, Result
from ..records import Lookup, Product, Work
from ..schema import arguments
from ..trace import is_tensor, module_of, shape_of
from .elementwise import fits
from .layers import mix, open_layer, positions
from .registry import register_rule


@dataclass(frozen=True)
class Factor:
    """One operand of a product: its labels, its shape, and a letter for each of its axes."""

    labels: Labels | None
    shape: tuple[int, ...]
    letters: str
    node: fx.Node | None = None  # the operand itself, where it is one of the graph's values

    @property
    def labelled(self) -> set[str]:
        """The letters of the axes on which the labels depend."""
        return set() if self.labels is None else {self.letters[d] for d in self.labels.dims}

    def over(self, letters: Sequence[str], sizes: dict[str, int]) -> Tensor:
        """The labels as a tensor with one axis for each of ``letters``."""
        assert self.labels is not None
        own = [self.letters[d] for d in self.labels.dims]
        order = sorted(range(len(own)), key=lambda i: letters.index(own[i]))
        ids = self.labels.ids.permute(order)
        kept = iter(ids.shape)
        view = [next(kept) if letter in own else 1 for letter in letters]
        return ids.reshape(view).expand([sizes[letter] for letter in letters])


def contract(prop: Propagation, node: fx.Node, factors: Sequence[Factor], out: str) -> Result:
    """Labels of ``einsum(factors -> out)``; a letter that is not in ``out`` is summed over.

    Heads of attention lie along letters that several factors share with the result. With whole
    heads as units, features that are summed over go with their head: queries and keys are only ever
    seen through their product. With features as units, all heads lose the same ones. Where two
    factors have a letter, units along it in one must be units in the other.
    """
    if prop.attention == "head-dims":
        factors = [_over_all_heads(prop, factor, factors, out) for factor in factors]
    sizes: dict[str, int] = {}
    for factor in factors:
        for letter, size in zip(factor.letters, factor.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    letters = [x for x in sizes if any(x in factor.labelled for factor in factors)]
    if not letters:
        return None
    for factor in factors:
        for letter, size in zip(factor.letters, factor.shape, strict=True):
            if letter in letters and letter not in factor.labelled and size > 1:
                prop.refuse(node, "it multiplies units by values that no layer produces")
                return None
    first, *more = [f.over(letters, sizes) for f in factors if f.labels is not None]
    for other in more:
        prop.couple(first, other)
    _note_work(prop, node, prod(sizes.values()) // 2, first)
    ids, summed = first, [letter for letter in letters if letter not in out]
    if summed == letters and len(summed) == 1 and len(more) == 1:
        _note_product(prop, node, factors[0], summed[0], ids)
        return None
    for letter in summed:
        ids = prop.unite(ids, letters.index(letter))
        letters.remove(letter)
    if not letters:
        return None
    if summed:
        prop.heads.setdefault(module_of(node), []).append(ids.flatten())
    order = sorted(range(len(letters)), key=lambda i: out.index(letters[i]))
    return Labels(tuple(out.index(letters[i]) for i in order), ids.permute(order).contiguous())


def _over_all_heads(
    prop: Propagation, factor: Factor, factors: Sequence[Factor], out: str
) -> Factor:
    """The same labels for all heads: units along letters that several factors share go together."""
    labels = factor.labels
    shared = [
        letter
        for letter in factor.labelled
        if letter in out and sum(letter in other.letters for other in factors) > 1
    ]
    for letter in shared if len(shared) < len(factor.labelled) else ():
        assert labels is not None
        dim = factor.letters.index(letter)
        ids = prop.unite(labels.ids, labels.dims.index(dim))
        labels = Labels(tuple(d for d in labels.dims if d != dim), ids)
    return replace(factor, labels=labels)


def _note_product(
    prop: Propagation, node: fx.Node, first: Factor, letter: str, ids: Tensor
) -> None:
    """Units that are seen through this sum alone: each is one of its terms, and can go."""
    source = first.node
    examples = None if source is None else prop.examples(source)
    if source is None or examples is None:
        told = "it is not known which entries of its input are of which example"
        prop.refuse(node, told)
        return
    prop.products.append(Product(node, source, first.letters.index(letter), ids, examples))


def _note_work(prop: Propagation, node: fx.Node, products: int, ids: Tensor) -> None:
    """``products`` multiply-adds for one example, the same number for each label."""
    own = ids.unique()
    if FIXED not in own and products % len(own) == 0:
        prop.work.append(Work(module_of(node), products // len(own), own, None))


@register_rule("matmul", "bmm", "mm")
def _matmul(prop: Propagation, node: fx.Node) -> Result:
    a, b = node.args[:2]
    assert isinstance(a, fx.Node)
    assert isinstance(b, fx.Node)
    last = len(shape_of(node)) - 1
    if len(shape_of(b)) == 2 and prop.labels(b) is None and prop.part(b, 1) is not None:
        # x @ weight, which somebody wrote instead of a layer.
        layer = open_layer(prop, node, last, "feature", out_axis=1)
        if layer is None:
            return None
        mix(prop, node, layer, last, positions(node, last))
        return Labels((last,), layer.out_ids)
    shapes = shape_of(a), shape_of(b)
    if min(map(len, shapes)) < 2:
        prop.refuse(node, "it multiplies by a vector")
        return None
    batch = "abcdefgh"[: max(map(len, shapes)) - 2]
    factors = [
        Factor(prop.labels(x), shape, batch[len(batch) - len(shape) + 2 :] + ends, x)
        for x, shape, ends in zip((a, b), shapes, ("xy", "yz"), strict=True)
    ]
    return contract(prop, node, factors, batch + "xz")


@register_rule("einsum")
def _einsum(prop: Propagation, node: fx.Node) -> Result:
    equation, operands = node.args[:2]
    assert isinstance(equation, str)
    assert isinstance(operands, Sequence)
    inputs, arrow, out = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or "." in inputs or any(len(set(term)) < len(term) for term in terms):
        prop.refuse(node, "of einsum only plain subscripts with '->' are known")
        return None
    values = [x for x in operands if isinstance(x, fx.Node)]
    factors = [
        Factor(prop.labels(x), shape_of(x), term, x) for x, term in zip(values, terms, strict=True)
    ]
    return contract(prop, node, factors, out)


@register_rule("scaled_dot_product_attention")
def _attention(prop: Propagation, node: fx.Node) -> Result:
    """Scores are products of queries and keys, and what comes out is their product with values."""
    named = arguments(node)
    query, key, value = (named[name] for name in ("query", "key", "value"))
    ranks = {len(shape_of(x)) for x in (query, key, value)}
    if len(ranks) > 1 or named["enable_gqa"]:
        prop.refuse(node, "its heads share keys")
        return None
    if named["dropout_p"]:
        prop.refuse(node, "it drops at random even when the network is in eval mode")
        return None
    batch = "abcdefgh"[: max(ranks) - 2]
    pair = [
        Factor(prop.labels(x), shape_of(x), batch + ends, x)
        for x, ends in ((query, "xy"), (key, "zy"))
    ]
    scores, shape = contract(prop, node, pair, batch + "xz"), shape_of(query)[:-1]
    shape = (*shape, shape_of(key)[-2])
    assert not isinstance(scores, list)
    mask = named["attn_mask"]
    if is_tensor(mask):
        met = prop.labels(mask)
        if met is not None or (
            scores is not None and not fits(prop, mask, shape, scores.dims, scores.ids)
        ):
            prop.refuse(node, "its mask differs between heads")
            return None
    averaged = [
        Factor(scores, shape, batch + "xz"),
        Factor(prop.labels(value), shape_of(value), batch + "zv"),
    ]
    return contract(prop, node, averaged, batch + "xv")


@register_rule("index", "index_select")
def _index(prop: Propagation, node: fx.Node) -> Result:
    """A look-up along other axes than the units', or along theirs by a buffer of integers."""
    named = arguments(node)
    labels = prop.labels(named["self"])
    if labels is None:
        return None
    if "indices" in named:
        looked_up = {d: index for d, index in enumerate(named["indices"]) if index is not None}
    else:
        looked_up = {named["dim"] % len(shape_of(named["self"])): named["index"]}
    if len(looked_up) != 1:
        prop.refuse(node, "it looks up units by an index")
        return None
    ((dim, index),) = looked_up.items()
    if dim in labels.dims:
        return _select_units(prop, node, labels, index)
    grow = len(shape_of(index)) - 1
    return Labels(tuple(d + grow * (d > dim) for d in labels.dims), labels.ids)


def _select_units(prop: Propagation, node: fx.Node, labels: Labels, index: fx.Node) -> Result:
    """Units by a buffer of their places: its entries go with the units, and count those left."""
    buffer = prop.parameter(index)
    if buffer is None or len(shape_of(index)) != 1 or len(labels.dims) > 1:
        prop.refuse(node, "it looks up units by an index")
        return None
    places = prop.value(buffer)
    if places.dtype == torch.bool or any(known.buffer == buffer for known in prop.lookups):
        prop.refuse(node, "it looks up units by an index that is no list of places, or used again")
        return None
    found = labels.ids[places.cpu().long()]
    prop.bind(buffer, 0, found)
    prop.lookups.append(Lookup(buffer, labels.ids))
    return Labels(labels.dims, found)
