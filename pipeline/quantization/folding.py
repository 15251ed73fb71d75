"""Batch norm becomes part of the layer before it, as every runtime does when it loads a network.

Tools that look at weights must see those that a runtime quantizes: the folded ones.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from .graphs import CONVOLUTIONS, TRANSPOSED, Traced, output_axis, replace_module, source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, fx

Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_NORMS = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of a network whose batch norms are folded into the layers before them.

    It computes the same function (to the rounding of float32), is of the same class and has the
    same modules by name; a folded batch norm is an `nn.Identity`, and its layer has a bias. What
    is folded depends on the structure alone, so weights of a folded network can be loaded into
    another one of the same kind that was folded.

    Args:
        model: any module that torch.fx can follow; left as it is.

    Returns:
        The copy, in eval mode. A batch norm stays where it follows something else than one
        convolution or linear layer of its own, or uses the statistics of the batch.

    Raises:
        ModelError: torch.fx cannot follow its forward().
    """
    folded = Traced(copy.deepcopy(model))
    for layer, norm in list(foldable(folded)):
        _fold(folded.modules[str(layer.target)], folded.modules[str(norm.target)])
        replace_module(folded.model, folded.modules[str(norm.target)], nn.Identity())
    return folded.model.eval()


def foldable(traced: Traced) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Steps of layers, each with that of the batch norm that can become part of it."""
    for node in traced.graph.nodes:
        norm, before = traced.module(node), source(node)
        if type(norm) not in _NORMS or before is None:
            continue
        layer = traced.module(before)
        assert isinstance(norm, Norm)
        alone = traced.is_own(node) and traced.is_own(before) and _only(before)
        if layer is not None and alone and _fits(layer, norm):
            yield before, node


def _only(node: fx.Node) -> bool:
    return len(node.users) == 1


def _fits(layer: nn.Module, norm: Norm) -> bool:
    """Whether the norm's channels are the layer's outputs, with statistics of its own."""
    if norm.running_mean is None or norm.running_var is None:
        return False
    kind, axes = type(layer), _NORMS[type(norm)]
    if isinstance(layer, nn.Linear):
        return kind is nn.Linear and axes == 1 and layer.out_features == norm.num_features
    if kind in TRANSPOSED:
        return TRANSPOSED[kind] == axes and bool(layer.groups == 1)
    return CONVOLUTIONS.get(kind) == axes


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    """Multiply the norm into the layer's weight and bias, in float64."""
    assert isinstance(norm, Norm)
    with torch.no_grad():
        gain, shift = _affine(norm)
        weight, bias = layer.get_parameter("weight"), dict(layer.named_parameters()).get("bias")
        along = [1] * weight.ndim
        along[output_axis(layer)] = -1
        start = torch.zeros_like(shift) if bias is None else bias.double()
        trained = weight.requires_grad
        folded = (weight.double() * gain.reshape(along)).to(weight.dtype)
        moved = (start * gain + shift).to(weight.dtype)
    layer.weight = nn.Parameter(folded, requires_grad=trained)
    layer.bias = nn.Parameter(moved, requires_grad=trained)


def gain_of(norm: Norm) -> Tensor:
    """What batch norm in eval mode multiplies each channel by, `(C,)`, float64."""
    assert norm.running_var is not None
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    return gain * norm.weight.double() if norm.affine else gain


def _affine(norm: Norm) -> tuple[Tensor, Tensor]:
    """Batch norm in eval mode as `gain * x + shift`, each `(C,)`, float64."""
    assert norm.running_mean is not None
    gain = gain_of(norm)
    shift = -norm.running_mean.double() * gain
    return gain, shift + norm.bias.double() if norm.affine else shift
