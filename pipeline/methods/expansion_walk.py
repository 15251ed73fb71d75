"""Follows replicated channels through the graph of a network, step by step.

A step is let through if it treats the channels alike (activations, pooling, sums) or mixes them by
a weight that can be replicated with them. Whatever cannot be proved is refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx, nn

from ..errors import TrainingError
from .expansion_flow import (
    ACTIVATIONS,
    ARITHMETIC,
    CONVOLUTIONS,
    ELEMENTWISE,
    NORMS,
    POOLING,
    POOLS,
    SAME,
    Fact,
    Flow,
    Size,
)
from .expansion_layers import Growth

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

HINT = (
    "choose another method, such as kd, or a student of dense or depthwise convolutions, linear"
    " layers, batch norm, activations, pooling and residual sums"
)


class Walk:
    """Carries facts along the steps of a graph and notes the layers that grow.

    Args:
        modules: of the network, by name.
        last: steps whose layers give the logits.

    Attributes:
        facts: what is known of the result of each step so far.
    """

    def __init__(self, modules: Mapping[str, nn.Module], last: Collection[fx.Node]) -> None:
        self.modules, self.last = modules, last
        self.facts: dict[fx.Node, Fact] = {}
        self._uses: dict[str, Growth | None] = {}

    @property
    def plan(self) -> dict[str, Growth]:
        """The layers that grow, by name, in the order in which they run."""
        return {name: growth for name, growth in self._uses.items() if growth is not None}

    def visit(self, node: fx.Node) -> Fact:
        """What is known of the result of a step."""
        if node.op == "call_module":
            return self._layer(node, self.modules[str(node.target)])
        if node.op in ("call_function", "call_method"):
            return self._step(node, _operation(node))
        if node.op == "output":
            return self._logits(node)
        return SAME  # the network's input, or a parameter that both networks use as it is

    def _layer(self, node: fx.Node, layer: nn.Module) -> Flow:
        flow, kind = self._flow(node), type(layer)
        if is_mixing(layer):
            return self._mixing(node, layer, flow)
        if isinstance(layer, nn.Flatten):
            return self._flattened(node, flow, layer.start_dim, layer.end_dim)
        if flow.axis is None:
            self._note(node, None)
            return Flow(None, flow.rank if kind in (*ACTIVATIONS, *POOLS, *NORMS) else None)
        if kind in CONVOLUTIONS or kind in NORMS or kind is nn.LayerNorm:
            return self._channelwise(node, layer, flow)
        if kind in ACTIVATIONS or (kind in POOLS and _is_map(flow)):
            return flow
        raise self._refusal(node)

    def _mixing(self, node: fx.Node, layer: nn.Module, flow: Flow) -> Flow:
        """A dense convolution or a linear layer."""
        rank = CONVOLUTIONS.get(type(layer), flow.rank)
        axis = 1 if type(layer) in CONVOLUTIONS or rank == 2 else -1 if rank is None else rank - 1
        if flow.axis not in (None, axis):
            raise self._refusal(node, f"it mixes axis {axis}, not the channels on axis {flow.axis}")
        last = node in self.last
        self._note(node, Growth(flow.axis is not None, not last))
        return Flow(None if last else axis, rank)

    def _channelwise(self, node: fx.Node, layer: nn.Module, flow: Flow) -> Flow:
        """A depthwise convolution, batch norm or layer norm of a replicated tensor."""
        if isinstance(layer, nn.LayerNorm):
            ends = flow.axis == -1 or (flow.rank is not None and flow.axis == flow.rank - 1)
            if not ends or len(layer.normalized_shape) != 1:
                raise self._refusal(node, "it normalises more than the channels")
        elif type(layer) in CONVOLUTIONS and layer.groups != layer.in_channels:
            raise self._refusal(node, f"{layer.groups} groups of {layer.in_channels} channels")
        elif flow.axis == -1 and type(layer) is nn.BatchNorm1d:
            flow = Flow(1, 2)  # with an axis between them it would not run
        elif flow.axis != 1:
            raise self._refusal(node, f"it works on axis 1, the channels are on axis {flow.axis}")
        self._note(node, Growth(inputs=False, outputs=True))
        return flow

    def _note(self, node: fx.Node, growth: Growth | None) -> None:
        name = str(node.target)
        own = dict(self.modules[name].named_parameters(recurse=False))
        if self._uses.setdefault(name, growth) != growth:
            raise self._refusal(node, "it is used twice, in places that grow differently")
        if growth and not own.keys() <= {"weight", "bias"}:
            raise self._refusal(node, f"its weight is made from {', '.join(own)}")

    def _step(self, node: fx.Node, name: str) -> Fact:
        """A function or a method of a tensor."""
        if name in ("size", "getattr", "getitem"):
            return self._size(node, name)
        flows = [f for f in map(self.facts.get, node.all_input_nodes) if isinstance(f, Flow)]
        if name == "flatten" and flows:
            start, end = _argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1)
            return self._flattened(node, flows[0], start, end)
        if name in ("view", "reshape") and self._keeps_only_the_batch(node):
            return self._flattened(node, self._flow(node), 1, -1)
        if all(flow.axis is None for flow in flows):
            return flows[0] if flows and name in {*ELEMENTWISE, *POOLING} else SAME
        if name in ARITHMETIC:
            return self._combined(node, flows)
        if len(flows) > 1:
            raise self._refusal(node)
        if name in ELEMENTWISE or (name in POOLING and _is_map(flows[0])):
            return flows[0]
        if name == "mean":
            return self._mean(node, flows[0])
        raise self._refusal(node)

    def _combined(self, node: fx.Node, flows: list[Flow]) -> Flow:
        """A sum or product of tensors, or of a tensor and a number."""
        if any(flow != flows[0] for flow in flows):
            names = " and ".join(str(inner.name) for inner in node.all_input_nodes)
            raise self._refusal(node, f"{names} are not replicated alike")
        return flows[0]

    def _flattened(self, node: fx.Node, flow: Flow, start: int, end: int) -> Flow:
        """Axes from `start` to `end` become one; copies stay blocks if the channels lead them."""
        if flow.rank is None:
            if flow.axis is not None:
                raise self._refusal(
                    node, "the number of axes is not known here; flatten the input first"
                )
            return Flow(None, 2 if (start, end) == (1, -1) else None)
        start, end = start % flow.rank, end % flow.rank
        rank, axis = flow.rank - (end - start), flow.axis
        if axis is not None and start < axis <= end:
            raise self._refusal(node, "the channels are not the first of the axes that become one")
        if axis is not None and axis > end:
            axis -= end - start
        return Flow(axis, rank)

    def _mean(self, node: fx.Node, flow: Flow) -> Flow:
        """A mean over axes other than the batch and the channels."""
        given, keep = _argument(node, 1, "dim", ()), _argument(node, 2, "keepdim", False)
        given = (given,) if isinstance(given, int) else tuple(given)
        if flow.rank is None or flow.axis is None or not given:
            raise self._refusal(node)
        axes, rank = {axis % flow.rank for axis in given}, flow.rank
        if axes & {0, flow.axis}:
            raise self._refusal(node, "a mean over the channels or the batch")
        if keep:
            return flow
        return Flow(flow.axis - sum(axis < flow.axis for axis in axes), rank - len(axes))

    def _size(self, node: fx.Node, name: str) -> Fact:
        """A shape, one size of it, or an index into a tensor."""
        owner, which = self.facts[node.all_input_nodes[0]], _argument(node, 1, "dim", None)
        replicated = owner.replicated if isinstance(owner, Size) else owner.axis is not None
        if name == "getattr" and which == "shape":
            return Size(replicated=replicated)
        if which == 0 and (name == "size" or isinstance(owner, Size)):
            return Size(batch=True)
        if replicated:
            raise self._refusal(node, "of a replicated tensor only the batch has a fixed size")
        return SAME if isinstance(owner, Flow) and name == "getitem" else Size()

    def _keeps_only_the_batch(self, node: fx.Node) -> bool:
        """Whether it is `x.view(x.size(0), -1)`."""
        sizes = node.args[1:]
        if len(sizes) != 2 or not isinstance(sizes[0], fx.Node):
            return False
        return self.facts.get(sizes[0]) == Size(batch=True) and bool(sizes[1] == -1)

    def _logits(self, node: fx.Node) -> Flow:
        given = node.args[0]
        fact = self.facts[given] if isinstance(given, fx.Node) else None
        if not isinstance(fact, Flow) or fact.axis is not None:
            raise TrainingError("gap-preserving: forward() must return the logits alone", HINT)
        return fact

    def _flow(self, node: fx.Node) -> Flow:
        """The tensor that a step works on."""
        first = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        fact = self.facts.get(first) if isinstance(first, fx.Node) else None
        if not isinstance(fact, Flow):
            raise self._refusal(node, "it does not work on one tensor")
        return fact

    def _refusal(self, node: fx.Node, why: str = "") -> TrainingError:
        what = f"gap-preserving cannot grow {self._place(node)}"
        return TrainingError(f"{what}: {why}" if why else what, HINT)

    def _place(self, node: fx.Node) -> str:
        """`layer 'stem.0' (Conv2d)`, or `cat() in 'block1' (Block)`."""
        if node.op == "call_module":
            name = str(node.target)
            return f"layer {name!r} ({type(self.modules[name]).__name__})"
        owner = next(reversed(node.meta.get("nn_module_stack", {"": ""})))
        inside = f"{owner!r} ({type(self.modules[owner]).__name__})" if owner else "forward()"
        return f"{_operation(node)}() in {inside}"


def is_mixing(layer: nn.Module) -> bool:
    """Whether every output of the layer depends on every channel of its input."""
    dense = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and layer.groups == 1
    return dense or isinstance(layer, nn.Linear)


def _is_map(flow: Flow) -> bool:
    return flow.axis == 1 and flow.rank in CONVOLUTIONS.values()


def _operation(node: fx.Node) -> str:
    """Name of a function or a method; one that works in place is called like its twin."""
    if isinstance(node.target, str):
        return node.target.removesuffix("_")
    name = getattr(node.target, "__name__", repr(node.target))
    home = getattr(node.target, "__module__", None) or "torch"
    known = home.split(".")[0] in ("torch", "_operator", "builtins")
    return name if known else f"{home}.{name}"  # a stranger may be called like one of ours


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)
