"""Walk the traced graph once and propagate channel labels, op by op.

The rules (one small function per operation, :mod:`.rules`) talk to a :class:`Propagation`: they
make fresh labels for what a layer produces, couple labels that must go together, note who reads
them, and freeze what cannot be removed, with the reason. An operation without a rule freezes every
label that reaches it: such groups are left alone, never pruned wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from .examples import UNKNOWN, Examples, find_examples
from .labels import FIXED, Labels, UnionFind
from .origin import Origin, follow
from .records import FlatInputs, Lookup, Padding, Product, Reader, Work
from .trace import has_examples, is_tensor, module_of

Result = Labels | list[Labels | None] | None
Rule = Callable[["Propagation", fx.Node], Result]


class Propagation:
    """What is known of the labels while the graph is walked."""

    def __init__(
        self,
        module: fx.GraphModule,
        rules: dict[str, Rule],
        aliases: Mapping[str, str],
        attention: str = "heads",
    ) -> None:
        self.module = module
        self.attention = attention  # what its units are, "heads" or "head-dims"
        self.rules = rules
        self.aliases = aliases  # of parameters with several names: any name -> the first
        self.classes = UnionFind()
        self.producers: list[tuple[str, Tensor]] = []  # parameter, the labels of its outputs
        self._tables: list[tuple[str, Tensor]] = []  # the same of layers that read no example
        self.axes: dict[tuple[str, int], Tensor] = {}  # (parameter or buffer, axis) -> labels
        self.frozen: list[tuple[int, str]] = []
        self.readers: list[Reader] = []
        self.products: list[Product] = []
        self.heads: dict[str, list[Tensor]] = {}  # module -> labels of heads, one each
        self.paddings: list[Padding] = []
        self.counts: dict[tuple[str, str], Tensor] = {}  # (module, attribute) -> what it counts
        self.work: list[Work] = []
        self.lookups: list[Lookup] = []
        self.flat_inputs: list[FlatInputs] = []
        self.left_alone: dict[str, str] = {}  # layer -> reason, where it has no labels to freeze
        self._produced: dict[tuple[str, int | None], Tensor] = {}  # (parameter, its outputs' axis)
        self._orders: dict[fx.Node, Examples | None] = {}  # where they lie in each value
        self._labels: dict[fx.Node, Result] = {}
        self._origins: dict[fx.Node, Any] = {}  # of values that are computed from one parameter
        self._node: fx.Node | None = None  # the one whose rule is running
        self._uses: set[tuple[str, fx.Node]] = set()  # of parameters, that the rules know

    def run(self) -> None:
        """Propagate through all nodes; the network's output is frozen at the end."""
        for node in self.module.graph.nodes:
            self._orders[node] = find_examples(node, op_name(node), self._orders)
            self._origins[node] = self._origin(node)
            if node.op == "call_function":
                self._labels[node] = self._apply(node)
            elif node.op == "output":
                for arg in node.all_input_nodes:
                    self.freeze_node(arg, "it is the network's output")
            elif node.op not in ("placeholder", "get_attr"):
                self._freeze_inputs(node, f"no rule for a node of kind {node.op!r}")
        self.producers += self._tables
        self._freeze_other_uses()

    def _freeze_other_uses(self) -> None:
        """A weight that is also read by something else than its layer cannot shrink unnoticed."""
        for node in self.module.graph.nodes:
            name = self.parameter(node)
            if name is None:
                continue
            values = [node]  # the parameter, and what is computed from it alone
            for value in values:
                for user in value.users:
                    if (name, user) in self._uses:
                        continue
                    if self._origins[user] is not None:
                        values.append(user)
                        continue
                    reason = f"{name} is also used by {op_name(user)}{self.place(user)}"
                    for (parameter, _), ids in self.axes.items():
                        if parameter == name:
                            self.freeze(ids, reason)

    def _origin(self, node: fx.Node) -> Origin | list[Origin] | None:
        if node.op == "get_attr":
            name, value = self.parameter(node), node.meta["val"]
            if name is None or not value.is_floating_point():
                return None  # integers are what tables are looked up with
            return Origin(name, tuple(value.shape))
        return follow(node, op_name(node), self._origins) if node.op == "call_function" else None

    def _apply(self, node: fx.Node) -> Result:
        name = op_name(node)
        if name == "getitem":
            source = self._labels.get(node.args[0])  # type: ignore[arg-type]
            return source[node.args[1]] if isinstance(source, list) else None  # type: ignore[index]
        if not isinstance(node.meta.get("val"), Tensor | tuple | list):
            return None  # a size: the batch alone is free, and it carries no channels
        rule = self.rules.get(name)
        if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
            rule = self.rules["pointwise"]  # element-wise by torch's own word
        if rule is None:
            reason = f"no rule for the operation {name!r}{self.place(node)}"
            self._freeze_inputs(node, reason)
            for parameter in filter(None, map(self.parameter, node.all_input_nodes)):
                self.left_alone.setdefault(layer_of(parameter), reason)
            return None
        self._node = node
        return rule(self, node)

    @property
    def produced(self) -> list[tuple[str, int]]:
        """(parameter, axis) along which a layer's outputs lie."""
        return [(name, axis) for name, axis in self._produced if axis is not None]

    # -- what rules ask ---------------------------------------------------------------------------

    def labels(self, node: Any) -> Labels | None:
        """The labels of one tensor, None where no element has one."""
        found = self._labels.get(node) if isinstance(node, fx.Node) else None
        if isinstance(found, list):
            raise TypeError(f"{node} is a tuple of tensors")
        return found

    def examples(self, node: fx.Node) -> Examples | None:
        """Where the examples lie in a value; None where there are none, or nobody knows where."""
        found = self._orders[node]
        return None if found is UNKNOWN else found

    def parameter(self, node: Any) -> str | None:
        """The name of the parameter or buffer that this argument is, else None.

        Tensors that ``torch.export`` lifted from the code (constants) have no name to slice by.
        """
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        name = str(node.target)
        owner, _, leaf = name.rpartition(".")
        holder: Any = self.module.get_submodule(owner) if owner else self.module
        if leaf in holder._parameters or leaf in holder._buffers:
            return None if "lifted_tensor" in leaf else self.aliases.get(name, name)
        return None

    def size(self, parameter: str, axis: int) -> int:
        """A parameter's or buffer's size along an axis."""
        return int(self.value(parameter).shape[axis])

    def value(self, parameter: str) -> Tensor:
        """A parameter's or buffer's value."""
        owner, _, leaf = parameter.rpartition(".")
        holder: Any = self.module.get_submodule(owner) if owner else self.module
        found: Tensor = getattr(holder, leaf)
        return found.detach()

    def part(self, node: Any, dim: int) -> tuple[str, int, Tensor] | None:
        """(parameter, axis, entries) of which a value's slices along ``dim`` consist, else None."""
        origin = self._origins.get(node) if isinstance(node, fx.Node) else None
        if not isinstance(origin, Origin):
            return None
        found = origin.axis_along(dim)
        return None if found is None else (origin.parameter, *found)

    def place(self, node: fx.Node) -> str:
        """ " in layer1.0" for messages, "" for an op in the network's own forward."""
        where = module_of(node)
        return f" in {where}" if where else " in the network's own forward"

    # -- what rules say ---------------------------------------------------------------------------

    def produce(self, parameter: str, size: int, axis: int | None = 0) -> Tensor:
        """Labels for the ``size`` outputs of a layer, which lie along ``axis`` of ``parameter``.

        None: along no axis of it (a transposed convolution in groups). A layer that is called twice
        gets the same labels twice: its outputs go together.
        """
        known = self._produced.get((parameter, axis))
        if known is None:
            known = self._produced[parameter, axis] = self.classes.new(size)
            assert self._node is not None
            # What makes a table for a layer does not give the units their name: the layer does.
            layers = self.producers if has_examples(self._node) else self._tables
            layers.append((parameter, known))
        self._use(parameter)
        if axis is not None:
            self.bind(parameter, axis, known)
        return known

    def bind(self, parameter: str, axis: int, ids: Tensor) -> None:
        """Axis ``axis`` of a parameter or buffer has these labels."""
        self._use(parameter)
        known = self.axes.get((parameter, axis))
        if known is None:
            self.axes[parameter, axis] = ids
        else:
            self.couple(known, ids)

    def bind_value(self, node: Any, dim: int, ids: Tensor) -> bool:
        """A parameter, or a value computed from one alone, has these labels along ``dim``.

        False, and nothing is bound, where it is no such value.
        """
        name = self.parameter(node)
        if name is not None:
            self.bind(name, dim, ids)
            return True
        found = self.part(node, dim)
        if found is None:
            return False
        name, axis, entries = found
        self._use(name)
        known = self.axes.get((name, axis))
        if known is None:
            # Entries that are never looked up belong to nothing that could be removed.
            origin = self._origins[node]
            known = self.axes[name, axis] = self.classes.new(origin.shape[axis])
        self.couple(known[entries], ids)
        return True

    def count(self, node: fx.Node, attribute: str, ids: Tensor) -> None:
        """The module that made this node notes in ``attribute`` how many ``ids`` there are.

        For numbers that no parameter of the module shows.
        """
        key = (module_of(node), attribute)
        known = self.counts.setdefault(key, ids)
        if len(known) == len(ids):
            self.couple(known, ids)
        else:
            for labels in (known, ids):
                self.freeze(labels, f"module {key[0]!r} is used at two sizes")

    def _use(self, parameter: str) -> None:
        assert self._node is not None
        self._uses.add((parameter, self._node))

    def couple(self, a: Tensor, b: Tensor) -> None:
        """Element by element, these labels go together; one tied to FIXED is frozen."""
        for x, y in set(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)):
            if x >= 0 and y >= 0:
                self.classes.union(x, y)
            elif x != y:
                self.frozen.append((max(x, y), "it is added to values that no layer produces"))

    def unite(self, ids: Tensor, axis: int) -> Tensor:
        """Labels that differ in their place along ``axis`` alone go together; one for each line."""
        for line in ids.movedim(axis, -1).reshape(-1, ids.shape[axis]).tolist():
            members = [x for x in line if x != FIXED]
            self.classes.union_all(members)
            if len(members) < len(line):
                reason = "it goes with values that no layer produces"
                self.frozen.extend((x, reason) for x in members)
        return ids.select(axis, 0)

    def freeze(self, ids: Tensor, reason: str) -> None:
        """These labels cannot be removed, and why."""
        self.frozen.extend((x, reason) for x in ids.unique().tolist() if x != FIXED)

    def freeze_node(self, node: fx.Node, reason: str) -> None:
        """Freeze every label that a node's value (or tuple of values) carries."""
        for labels in _each(self._labels.get(node)):
            self.freeze(labels.ids, reason)

    def _freeze_inputs(self, node: fx.Node, reason: str) -> None:
        for arg in node.all_input_nodes:
            self.freeze_node(arg, reason)

    def refuse(self, node: fx.Node, reason: str) -> None:
        """A rule's own no: freeze what comes in, return no labels."""
        self._freeze_inputs(node, f"{reason} ({op_name(node)}{self.place(node)})")


def op_name(node: fx.Node) -> str:
    """The operation without overload: ``aten.conv2d.default`` is ``conv2d``.

    One of another library keeps its namespace, as in ``mylib::soft_clip``.
    """
    target: Any = node.target
    packet = getattr(target, "overloadpacket", None)
    if packet is None:
        return str(getattr(target, "__name__", target))
    name = str(packet.__name__)
    return name if target.namespace == "aten" else f"{target.namespace}::{name}"


def maker(node: fx.Node) -> str:
    """The module whose forward made a node; in the network's own the operation's name."""
    return module_of(node) or op_name(node)


def layer_of(parameter: str) -> str:
    """The layer that owns a parameter: ``features.0.weight`` is of ``features.0``."""
    return parameter.rpartition(".")[0] or parameter


def tensor_args(node: fx.Node) -> list[fx.Node]:
    """The tensor arguments of a node, in order."""
    return [arg for arg in node.all_input_nodes if is_tensor(arg)]


def _each(result: Result) -> Iterator[Labels]:
    for labels in result if isinstance(result, list) else [result]:
        if labels is not None:
            yield labels
