"""Walk the traced graph once and propagate channel labels, op by op.

The rules (one small function per operation, :mod:`.rules`) talk to a :class:`Propagation`: they
make fresh labels for what a layer produces, couple labels that must go together, note who reads
them, and freeze what cannot be removed, with the reason. An operation without a rule freezes every
label that reaches it: such groups are left alone, never pruned wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from .labels import FIXED, Labels, UnionFind
from .trace import is_tensor, module_of

Result = Labels | list[Labels | None] | None
Rule = Callable[["Propagation", fx.Node], Result]


@dataclass(frozen=True)
class Reader:
    """An operation that mixes channels: ``ids`` label the input features along axis ``dim``."""

    node: fx.Node
    source: fx.Node
    weight: str
    dim: int
    ids: Tensor


@dataclass(frozen=True)
class Padding:
    """A module that pads the channel axis with ``before`` and ``after`` zeros."""

    module: str
    before: int
    after: int
    ids: Tensor


@dataclass(frozen=True)
class Work:
    """Multiply-adds of one operation for one example: coefficient x rows x columns.

    Rows and columns are counted over the labels that are kept; ``columns`` None counts one.
    """

    layer: str
    coefficient: int
    rows: Tensor
    columns: Tensor | None


class Propagation:
    """What is known of the labels while the graph is walked."""

    def __init__(
        self, module: fx.GraphModule, rules: dict[str, Rule], aliases: Mapping[str, str]
    ) -> None:
        self.module = module
        self.rules = rules
        self.aliases = aliases  # of parameters with several names: any name -> the first
        self.classes = UnionFind()
        self.producers: list[tuple[str, Tensor]] = []  # parameter, its labels along axis 0
        self.axes: dict[tuple[str, int], Tensor] = {}  # (parameter or buffer, axis) -> labels
        self.frozen: list[tuple[int, str]] = []
        self.readers: list[Reader] = []
        self.paddings: list[Padding] = []
        self.work: list[Work] = []
        self.left_alone: dict[str, str] = {}  # layer -> reason, where it has no labels to freeze
        self._labels: dict[fx.Node, Result] = {}
        self._node: fx.Node | None = None  # the one whose rule is running
        self._uses: set[tuple[str, fx.Node]] = set()  # of parameters, that the rules know

    def run(self) -> None:
        """Propagate through all nodes; the network's output is frozen at the end."""
        for node in self.module.graph.nodes:
            if node.op == "call_function":
                self._labels[node] = self._apply(node)
            elif node.op == "output":
                for arg in node.all_input_nodes:
                    self.freeze_node(arg, "it is the network's output")
            elif node.op not in ("placeholder", "get_attr"):
                self._freeze_inputs(node, f"no rule for a node of kind {node.op!r}")
        self._freeze_other_uses()

    def _freeze_other_uses(self) -> None:
        """A weight that is also read by something else than its layer cannot shrink unnoticed."""
        for node in self.module.graph.nodes:
            name = self.parameter(node)
            for user in node.users:
                if name is None or (name, user) in self._uses:
                    continue
                reason = f"{name} is also used by {op_name(user)}{self.place(user)}"
                for (parameter, _), ids in self.axes.items():
                    if parameter == name:
                        self.freeze(ids, reason)

    def _apply(self, node: fx.Node) -> Result:
        name = op_name(node)
        if name == "getitem":
            source = self._labels.get(node.args[0])  # type: ignore[arg-type]
            return source[node.args[1]] if isinstance(source, list) else None  # type: ignore[index]
        if not isinstance(node.meta.get("val"), Tensor | tuple | list):
            return None  # a size: the batch alone is free, and it carries no channels
        rule = self.rules.get(name)
        if rule is None:
            self._freeze_inputs(node, f"no rule for the operation {name!r}{self.place(node)}")
            return None
        self._node = node
        return rule(self, node)

    # -- what rules ask ---------------------------------------------------------------------------

    def labels(self, node: Any) -> Labels | None:
        """The labels of one tensor, None where no element has one."""
        found = self._labels.get(node) if isinstance(node, fx.Node) else None
        if isinstance(found, list):
            raise TypeError(f"{node} is a tuple of tensors")
        return found

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

    def place(self, node: fx.Node) -> str:
        """ " in layer1.0" for messages, "" for an op in the network's own forward."""
        where = module_of(node)
        return f" in {where}" if where else " in the network's own forward"

    # -- what rules say ---------------------------------------------------------------------------

    def produce(self, parameter: str, size: int) -> Tensor:
        """Labels for the ``size`` outputs of a layer, one per row of ``parameter``.

        A layer that is called twice gets the same labels twice: its outputs go together.
        """
        self._use(parameter)
        known = self.axes.get((parameter, 0))
        if known is not None:
            return known
        ids = self.classes.new(size)
        self.axes[parameter, 0] = ids
        self.producers.append((parameter, ids))
        return ids

    def bind(self, parameter: str, axis: int, ids: Tensor) -> None:
        """Axis ``axis`` of a parameter or buffer has these labels."""
        self._use(parameter)
        known = self.axes.get((parameter, axis))
        if known is None:
            self.axes[parameter, axis] = ids
        else:
            self.couple(known, ids)

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
    """The operation without namespace and overload: ``aten.conv2d.default`` is ``conv2d``."""
    target: Any = node.target
    packet = getattr(target, "overloadpacket", None)
    return str(packet.__name__) if packet is not None else str(getattr(target, "__name__", target))


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
