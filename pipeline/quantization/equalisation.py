"""Cross-layer equalisation.

Markus Nagel, Mart van Baalen, Tijmen Blankevoort, Max Welling, "Data-Free Quantization Through
Weight Equalization and Bias Correction", ICCV 2019, arXiv:1906.04721.

Two layers W1 and W2 with nothing but positively homogeneous functions, f(s x) = s f(x) for s > 0,
between them stay the same function when channel i of the first is divided by s_i and what reads
it in the second is multiplied by s_i. With

    s_i = sqrt(r1_i r2_i) / r2_i,    r1_i = max |W1[i]|,    r2_i = max |W2[:, i]|

both have the same range, and none of the channels that share one scale is lost on its grid. Pairs
that share a layer are visited in turn until no s_i changes any more.

Departures:
- The bias of the first layer counts for r1. A channel with tiny weights and a large bias would
  otherwise be blown up by its s_i; the paper absorbs such biases into the next layer instead.
- A channel whose weights are all zero on one side keeps its scale.
- ReLU6 is not homogeneous. The paper replaces it; here it ends a chain unless that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from .chains import Pair, find_pairs
from .folding import fold_batch_norm
from .graphs import Traced, replace_module

if TYPE_CHECKING:
    from torch import Tensor

_ROUNDS = 1000
_CONVERGED = 1e-6  # largest relative change of a scale in a round


@dataclass(frozen=True, slots=True)
class Equalised:
    """A network whose layers share their ranges.

    Attributes:
        model: a folded copy in eval mode, of the same class; the same function, unless something
            was replaced.
        pairs: module paths of both layers of every pair, in the order in which they run.
        replaced: module paths of the ReLU6 that are ReLU now: with any, it is another function.
    """

    model: nn.Module
    pairs: tuple[tuple[str, str], ...]
    replaced: tuple[str, ...] = ()


def equalise(model: nn.Module, replace_relu6: bool = False) -> Equalised:
    """Find the pairs of layers in the graph of a network, and equalise their ranges.

    Args:
        model: any module that torch.fx can follow; left as it is.
        replace_relu6: make a ReLU of each `nn.ReLU6` between two layers that would be a pair
            without it. That changes the function: compare the accuracy.

    Raises:
        ModelError: torch.fx cannot follow its forward().
    """
    traced = Traced(fold_batch_norm(model))
    pairs = find_pairs(traced, through_relu6=replace_relu6)
    clipped = list(dict.fromkeys(path for pair in pairs for path in pair.clipped))
    for path in clipped:
        replace_module(traced.model, traced.modules[path], nn.ReLU())
    layers = traced.modules
    _apply(layers, pairs, _converged(layers, pairs))
    return Equalised(traced.model, tuple((p.first, p.second) for p in pairs), tuple(clipped))


def _converged(layers: dict[str, nn.Module], pairs: list[Pair]) -> list[Tensor]:
    """The scale of each channel of each pair `(C,)`, float64."""
    scales = [torch.ones(pair.channels, dtype=torch.float64) for pair in pairs]
    into = {pair.second: place for place, pair in enumerate(pairs)}
    out_of = {pair.first: place for place, pair in enumerate(pairs)}
    for _ in range(_ROUNDS):
        change = 0.0
        for place, pair in enumerate(pairs):
            before = scales[into[pair.first]] if pair.first in into else None
            after = scales[out_of[pair.second]] if pair.second in out_of else None
            new = _balanced(layers, pair, before, after)
            change = max(change, float((new / scales[place] - 1).abs().max()))
            scales[place] = new
        if change <= _CONVERGED:
            break
    return scales


def _balanced(
    layers: dict[str, nn.Module], pair: Pair, before: Tensor | None, after: Tensor | None
) -> Tensor:
    """Scales of a pair, given those at the input of its first and the output of its second."""
    first, second = layers[pair.first], layers[pair.second]
    ours = _output_ranges(first, before)
    theirs = _input_ranges(second, pair, after)
    alive = (ours > 0) & (theirs > 0)
    return torch.where(alive, (ours / theirs.clamp_min(1e-300)).sqrt(), 1.0)


def _output_ranges(layer: nn.Module, before: Tensor | None) -> Tensor:
    """Largest weight, or bias, of each output channel `(C,)` of a layer whose inputs are scaled."""
    weight = _weight(layer)
    rows = _scaled_inputs(weight, layer, before).abs().flatten(1).amax(1)
    bias = dict(layer.named_parameters()).get("bias")
    return rows if bias is None else torch.maximum(rows, bias.detach().double().abs())


def _input_ranges(layer: nn.Module, pair: Pair, after: Tensor | None) -> Tensor:
    """Largest weight that reads each channel `(C,)`, in a layer whose outputs are divided."""
    weight = _weight(layer)
    if after is not None:
        weight = weight / after.reshape(-1, *[1] * (weight.ndim - 1))
    if pair.depthwise:
        return weight.abs().reshape(pair.channels, -1).amax(1)
    columns = weight.abs().transpose(0, 1).flatten(1).amax(1)
    return columns.reshape(pair.channels, -1).amax(1)


def _scaled_inputs(weight: Tensor, layer: nn.Module, scales: Tensor | None) -> Tensor:
    """A weight after what it reads was divided by scales `(C,)`."""
    if scales is None:
        return weight
    if weight.shape[1] == 1 and getattr(layer, "groups", 1) > 1:
        each = scales.repeat_interleave(len(weight) // len(scales))
        return weight * each.reshape(-1, *[1] * (weight.ndim - 1))
    each = scales.repeat_interleave(weight.shape[1] // len(scales))
    return weight * each.reshape(1, -1, *[1] * (weight.ndim - 2))


def _apply(layers: dict[str, nn.Module], pairs: list[Pair], scales: list[Tensor]) -> None:
    """Rescale the layers, each tensor rounded to float32 once per pair."""
    with torch.no_grad():
        for pair, scale in zip(pairs, scales, strict=True):
            first, second = layers[pair.first], layers[pair.second]
            own = first.get_parameter("weight")
            own.copy_(_weight(first) / scale.reshape(-1, *[1] * (own.ndim - 1)))
            if "bias" in dict(first.named_parameters()):
                bias = first.get_parameter("bias")
                bias.copy_(bias.double() / scale)
            second.get_parameter("weight").copy_(_scaled_inputs(_weight(second), second, scale))


def _weight(layer: nn.Module) -> Tensor:
    return layer.get_parameter("weight").detach().double()
