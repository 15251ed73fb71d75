"""Finds pairs of layers with only positively homogeneous functions between them.

From each layer the one reader of its result is followed as long as every channel stays a channel
and is only multiplied when its input is. What is not known to do so ends the chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import fx, nn

from .graphs import CONVOLUTIONS, Traced, argument, source

if TYPE_CHECKING:
    from collections.abc import Iterable

# Of a map (N, C, ...) or of features (N, C); each value on its own.
_ELEMENTWISE = {
    *(nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *("relu", "leaky_relu", "dropout", "dropout1d", "dropout2d", "dropout3d", "contiguous"),
}
# Of a map alone: they mix places, not channels.
_POOLING = {
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
}
_SHAPES = ("size", "getattr")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layers whose channels can be rescaled against each other.

    Attributes:
        first: path of the layer whose outputs are divided.
        second: path of the layer that reads them.
        channels: C, outputs of the first.
        depthwise: the second filters each channel by itself.
        clipped: paths of the ReLU6 between them.
    """

    first: str
    second: str
    channels: int
    depthwise: bool
    clipped: tuple[str, ...] = ()


def find_pairs(traced: Traced, through_relu6: bool = False) -> list[Pair]:
    """All pairs of a network, in the order in which they run.

    Args:
        traced: a network, its batch norms folded.
        through_relu6: also those with an `nn.ReLU6` between them.
    """
    starts = (node for node in traced.graph.nodes if _outputs(traced, node))
    found = (_follow(traced, node, through_relu6) for node in starts)
    return [pair for pair in found if pair is not None]


def _outputs(traced: Traced, node: fx.Node) -> int:
    """Output channels of a layer that may be rescaled; 0 for anything else."""
    layer = traced.module(node)
    if layer is None or not traced.is_own(node):
        return 0
    if type(layer) is nn.Linear:
        return layer.out_features
    if type(layer) in CONVOLUTIONS and (layer.groups == 1 or _is_depthwise(layer)):
        channels: int = layer.out_channels  # type: ignore[assignment]
        return channels
    return 0


def _is_depthwise(layer: nn.Module) -> bool:
    return bool(layer.groups == layer.in_channels)


def _follow(traced: Traced, first: fx.Node, through_relu6: bool) -> Pair | None:
    """The pair that begins with a layer."""
    channels, axes = _outputs(traced, first), _axes(traced, first)
    clipped: list[str] = []
    node = first
    while (reader := _only_reader(traced, node)) is not None:
        if _outputs(traced, reader):
            return _pair(traced, first, reader, channels, axes, clipped)
        kind = traced.operation(reader)
        if kind is nn.ReLU6 and through_relu6:
            clipped.append(str(reader.target))
        elif _flattens(traced, reader, axes):
            axes = 0
        elif kind not in _ELEMENTWISE and not (axes and kind in _POOLING):
            return None
        node = reader
    return None


def _axes(traced: Traced, node: fx.Node) -> int:
    """Axes of places in what a layer gives; 0 for features `(N, C)`."""
    layer = traced.module(node)
    return CONVOLUTIONS.get(type(layer), 0) if layer is not None else 0


def _only_reader(traced: Traced, node: fx.Node) -> fx.Node | None:
    """The one step that reads a result as the tensor it works on."""
    readers = traced.readers(node)
    alone = len(readers) == 1 and readers[0].op != "output" and source(readers[0]) is node
    return readers[0] if alone else None


def _pair(
    traced: Traced,
    first: fx.Node,
    second: fx.Node,
    channels: int,
    axes: int,
    clipped: Iterable[str],
) -> Pair | None:
    """The pair of both layers, if the second reads the channels that the first gives."""
    layer = traced.module(second)
    depthwise = False
    if isinstance(layer, nn.Linear):
        # A map that was flattened has the same number of features for each channel.
        fits = axes == 0 and layer.in_features % channels == 0
        if type(traced.module(first)) is nn.Linear:
            fits = layer.in_features == channels
    else:
        assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        fits = axes == CONVOLUTIONS[type(layer)] and layer.in_channels == channels
        depthwise = layer.groups > 1
    if not fits:
        return None
    return Pair(str(first.target), str(second.target), channels, depthwise, tuple(clipped))


def _flattens(traced: Traced, node: fx.Node, axes: int) -> bool:
    """Whether a map becomes features `(N, C * places)`, channel by channel; or it was before."""
    module, kind = traced.module(node), traced.operation(node)
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    if kind == "flatten":
        return (argument(node, 1, "start_dim", 0), argument(node, 2, "end_dim", -1)) == (1, -1)
    if kind == "mean":
        return axes > 0 and _averages_places(node, axes)
    return kind in ("view", "reshape") and _keeps_only_the_batch(traced, node)


def _averages_places(node: fx.Node, axes: int) -> bool:
    """Whether it is the mean over all places, which leaves `(N, C)`."""
    given = argument(node, 1, "dim", ())
    given = (given,) if isinstance(given, int) else tuple(given or ())
    places = {axis % (axes + 2) for axis in given if isinstance(axis, int)}
    return places == set(range(2, axes + 2)) and not argument(node, 2, "keepdim", False)


def _keeps_only_the_batch(traced: Traced, node: fx.Node) -> bool:
    """Whether it is `x.view(x.size(0), -1)` or `x.reshape(len, -1)` with `x.shape[0]`."""
    sizes = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    if len(sizes) != 2 or sizes[1] != -1 or not isinstance(sizes[0], fx.Node):
        return False
    return _is_batch_size(traced, sizes[0])


def _is_batch_size(traced: Traced, node: fx.Node) -> bool:
    kind, before = traced.operation(node), source(node)
    if kind == "getitem" and before is not None and traced.operation(before) not in _SHAPES:
        return False
    return kind in ("size", "getitem") and bool(argument(node, 1, "dim", None) == 0)
