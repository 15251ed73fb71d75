"""A network that already feels int8 while it is trained.

Weights and activations are rounded where the runtimes round them: a convolution with its folded
batch norm and its ReLU is one unit, whose result is rounded once; so are the network's input and
the results of sums, products, concatenations, averages and other activations. What only moves
values about (flattening, max pooling, dropout) keeps the grid of what it reads.

Everything else (layer norm, softmax, ...) is computed in float; where a layer with weights reads
it, it is rounded before that. Afterwards all of this is taken off again, and each format's own
quantizer works on a float network whose weights lie on the int8 grid.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from ..errors import ModelError
from .folding import fold_batch_norm, foldable
from .graphs import CONVOLUTIONS, TRANSPOSED, Traced
from .quantizers import ActivationGrid, round_weight, run_rounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LAYERS = {*CONVOLUTIONS, *TRANSPOSED, nn.Linear}
_CLIPPING = {nn.ReLU, nn.ReLU6, nn.Hardtanh, "relu", "relu6", "hardtanh"}
_MOVING = {
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Flatten, nn.Unflatten),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.PixelShuffle, nn.ChannelShuffle),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "flatten", "unflatten", "view", "reshape"),
    *("permute", "transpose", "contiguous", "squeeze", "unsqueeze", "expand", "chunk", "split"),
    *("getitem", "max_pool1d", "max_pool2d", "max_pool3d", "pixel_shuffle", "movedim", "clone"),
}
_COMPUTING = {
    *_LAYERS,
    *_CLIPPING,
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.SiLU, nn.GELU),
    *(nn.LeakyReLU, nn.PReLU, nn.ELU, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *("add", "iadd", "sub", "isub", "mul", "imul", "cat", "concat", "stack", "mean", "matmul"),
    *("bmm", "avg_pool1d", "avg_pool2d", "avg_pool3d", "hardswish", "hardsigmoid", "sigmoid"),
    *("tanh", "silu", "gelu", "leaky_relu", "prelu", "elu", "linear", "conv1d", "conv2d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "conv3d", "clamp"),
}
_NETWORK, _GRIDS = "network", "grids"


class FakeQuantized(nn.Module):
    """A network and the grids of its activations; called like the network.

    Its graph was written down in eval mode: what a forward() itself decides by `self.training`
    stays as in eval mode, the network's modules do not.

    Args:
        network: its weights get their grids here.

    Attributes:
        network: it, batch norms and all; the owner of all parameters.
        grids: of the activations.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        traced = Traced(network)
        self.network = network
        norms = _join_norms(traced)
        measured = [node for node in traced.graph.nodes if _is_rounded(traced, node)]
        self.grids = nn.ModuleDict({_name(node): ActivationGrid() for node in measured})
        self._graph = _with_grids(traced, measured, norms)
        self._bind()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the network gives, as if it ran in int8."""
        return self._run(*inputs, **named)

    def _bind(self) -> None:
        # Not registered as a module: it would list every weight a second time.
        self._run: Callable[..., Any] = fx.GraphModule(self, self._graph).forward

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FakeQuantized:
        """Moves to a device; buffers that the graph reads by name are others then."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._bind()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FakeQuantized:
        # A copied bound method would go on computing with the weights of the original.
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        state = {name: part for name, part in self.__dict__.items() if name != "_run"}
        other.__dict__.update(copy.deepcopy(state, memo))
        other._bind()
        return other


def prepare(model: nn.Module) -> FakeQuantized:
    """A fake-quantized copy of a network, to be trained on; it starts with the same weights.

    Args:
        model: any module that torch.fx can follow; left as it is.

    Raises:
        ModelError: torch.fx cannot follow its forward(), or it has no layer that is quantized.
    """
    network = copy.deepcopy(model)
    if not list(_weighted(network)):
        raise ModelError(
            f"{type(model).__name__} has no convolution or linear layer: expected at least one",
            "take `recover` out of `quantize`: int8 changes nothing in this network",
        )
    return FakeQuantized(network).train(model.training)


def strip(prepared: nn.Module) -> nn.Module:
    """The plain folded float network, its weights on the int8 grid; in eval mode.

    It is of the class that was prepared and has the keys of `fold_batch_norm` of it. Its weights
    suit int8, with the activations rounded too; as a float network it may be a poor one.

    Args:
        prepared: what `prepare` gave; left as it is.

    Raises:
        ModelError: it is something else.
    """
    if not isinstance(prepared, FakeQuantized):
        got = type(prepared).__name__
        raise ModelError(f"strip() got {got}, expected what prepare() gave", "call prepare() first")
    network = fold_batch_norm(prepared.network)
    for layer in _weighted(network):
        round_weight(layer)
    return network


def _weighted(network: nn.Module) -> Iterator[nn.Module]:
    """Layers whose weights are quantized."""
    return (module for module in network.modules() if type(module) in _LAYERS)


def _is_rounded(traced: Traced, node: fx.Node) -> bool:
    """Whether the runtimes round the result of a step."""
    if node.op == "placeholder":
        return True
    if node.op not in ("call_module", "call_function", "call_method"):
        return False
    kind = traced.operation(node)
    if kind in _COMPUTING:
        return not _joins_next(traced, node)
    return kind not in _MOVING and any(_reads_weights(traced, user) for user in node.users)


def _joins_next(traced: Traced, node: fx.Node) -> bool:
    """Whether the one reader is a ReLU, which a runtime computes in the same breath."""
    readers = traced.readers(node)
    return len(readers) == 1 and traced.operation(readers[0]) in _CLIPPING


def _reads_weights(traced: Traced, user: fx.Node) -> bool:
    """Whether a step is a layer with weights, or moves values on to one."""
    if user.op == "output":
        return False
    kind = traced.operation(user)
    if kind in _MOVING:
        return any(_reads_weights(traced, further) for further in user.users)
    return kind in _LAYERS


def _name(node: fx.Node) -> str:
    return f"after_{node.name}"  # a bare name such as `values` would hide a method of ModuleDict


def _join_norms(traced: Traced) -> dict[fx.Node, str]:
    """Take the batch norms that will be folded out of the graph; their paths, by layer."""
    norms = {}
    for layer, norm in list(foldable(traced)):
        norms[layer] = str(norm.target)
        norm.replace_all_uses_with(layer)
        traced.graph.erase_node(norm)
    return norms


def _with_grids(traced: Traced, measured: list[fx.Node], norms: dict[fx.Node, str]) -> fx.Graph:
    """The graph over a `FakeQuantized`: layers round their weights, a grid follows these steps."""
    graph = traced.graph
    layers = [n for n in graph.nodes if n.op == "call_module" and traced.operation(n) in _LAYERS]
    names = {node: f"{_GRIDS}.{_name(node)}" for node in measured}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = f"{_NETWORK}.{node.target}"
    for node, name in names.items():
        readers = list(node.users)
        with graph.inserting_after(node):
            grid = graph.call_module(name, (node,))
        for reader in readers:
            reader.replace_input_with(node, grid)
    for node in layers:
        _round_weight_of(graph, node, norms.get(node))
    return graph


def _round_weight_of(graph: fx.Graph, node: fx.Node, norm: str | None) -> None:
    with graph.inserting_before(node):
        layer = graph.get_attr(str(node.target))
        after = graph.get_attr(f"{_NETWORK}.{norm}") if norm is not None else None
        rounded = graph.call_function(run_rounded, (layer, after, *node.args), node.kwargs)
    node.replace_all_uses_with(rounded)
    graph.erase_node(node)
