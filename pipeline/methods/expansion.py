"""A student inside a larger network of the same function, with shared weights.

Growing keeps every activation `r` times, side by side. Of a layer of weight `W` and bias `b`:

    rows    W' = cat_r(W, 0),      b' = cat_r(b)    unless it gives the logits
    columns W' = cat_r(W', 1) / r                   if its input is replicated and it is dense

so depthwise convolutions, batch norm and layer norm are plain copies, activations, pooling and
residual sums need nothing, and what a dense layer sums over `r` copies of its input is what it
summed over one. The student is read back as `W = r W'[:out, :in]`, `b = b'[:out]`.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from ..errors import TrainingError
from .expansion_layers import Branches, Growth
from .expansion_pair import Shared
from .expansion_walk import HINT, Walk, is_mixing

if TYPE_CHECKING:
    from collections.abc import Iterable

_SEED = 20_241_004  # of noise and branches: a student is always grown in the same way
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def grow(student: nn.Module, ratio: int, branches: int, noise: float) -> Shared:
    """A dynamic teacher around a student.

    Args:
        student: stays as it is; `forward` gives logits `(N, C)`.
        ratio: how many times every activation is kept.
        branches: per convolution with a window; 1 adds none.
        noise: standard deviation of what is added to the copies, so that they do not learn the
            same; the student's own part stays as it is.

    Raises:
        TrainingError: a layer that cannot be grown, or nothing to grow.
    """
    plan = plan_growth(student) if ratio > 1 else {}
    teacher = copy.deepcopy(student)
    random = torch.Generator().manual_seed(_SEED)
    for name, growth in plan.items():
        _grow_layer(teacher.get_submodule(name), growth, ratio, noise, random)
    branched = _add_branches(teacher, branches, random) if branches > 1 else 0
    if not plan and not branched:
        raise TrainingError(
            f"gap-preserving: {type(student).__name__} has no convolution with a window, so that"
            f" branches {branches} at ratio {ratio} add nothing",
            "set ratio to 2",
        )
    return Shared(student, teacher, plan, ratio)


def plan_growth(student: nn.Module) -> dict[str, Growth]:
    """The layers that grow, by name, in the order in which they run.

    The input of the first layers and the logits of the last ones stay as they are. A product of two
    replicated tensors is replicated, so gates over channels (squeeze-and-excitation) can grow.

    Args:
        student: of one input; `forward` gives logits `(N, C)`.

    Raises:
        TrainingError: a layer or a step that cannot be grown, by name and type; nothing to grow; or
            a `forward` that torch.fx cannot follow.
    """
    graph = _trace(student)
    modules = dict(student.named_modules())
    walk = Walk(modules, _last_layers(graph, modules))
    for node in graph.nodes:
        walk.facts[node] = walk.visit(node)
    if not any(growth.outputs for growth in walk.plan.values()):
        name = type(student).__name__
        raise TrainingError(f"gap-preserving: {name} has no hidden layer that can grow", HINT)
    _check_ties(student, walk.plan)
    return walk.plan


def _grow_layer(
    layer: nn.Module, growth: Growth, ratio: int, noise: float, random: torch.Generator
) -> None:
    """Replace the tensors of a layer, and what it knows about its size."""
    weight, bias, rows = layer.weight, layer.bias, Growth(inputs=False, outputs=growth.outputs)
    if isinstance(weight, nn.Parameter):
        grown = _with_noise(growth.grow(weight.detach(), ratio), weight, noise, random)
        layer.weight = nn.Parameter(grown, weight.requires_grad)
    if isinstance(bias, nn.Parameter):
        grown = rows.grow(bias.detach(), ratio).clone()
        layer.bias = nn.Parameter(grown, bias.requires_grad)
    for name, buffer in layer.named_buffers(recurse=False):
        setattr(layer, name, buffer.repeat(ratio) if buffer.ndim else buffer)
    _resize(layer, growth, ratio)


def _with_noise(grown: Tensor, weight: Tensor, noise: float, random: torch.Generator) -> Tensor:
    """A copy with noise on all but the student's part; norms, of one axis, get none."""
    if weight.ndim < 2 or noise == 0:
        return grown.clone()
    part = tuple(slice(size) for size in weight.shape)
    drawn = torch.randn(grown.shape, generator=random).to(grown) * noise
    drawn[part] = 0
    return grown + drawn


def _resize(layer: nn.Module, growth: Growth, ratio: int) -> None:
    known: Any = layer
    if isinstance(layer, nn.LayerNorm):
        known.normalized_shape = (layer.normalized_shape[0] * ratio,)
    elif isinstance(layer, (*_CONVOLUTIONS, nn.Linear)):
        unit = "features" if isinstance(layer, nn.Linear) else "channels"
        depthwise = isinstance(layer, _CONVOLUTIONS) and layer.groups > 1
        if depthwise:
            known.groups *= ratio
        for side, grows in (("in", growth.inputs or depthwise), ("out", growth.outputs)):
            if grows:
                setattr(known, f"{side}_{unit}", getattr(known, f"{side}_{unit}") * ratio)
    else:
        known.num_features *= ratio


def _add_branches(network: nn.Module, count: int, random: torch.Generator) -> int:
    """Branch every convolution whose window is larger than 1; how many there were."""
    layers = [layer for layer in network.modules() if isinstance(layer, _CONVOLUTIONS)]
    layers = [layer for layer in layers if math.prod(layer.kernel_size) > 1]
    for layer in layers:
        branch = Branches(layer.weight.detach(), count, random)
        parametrize.register_parametrization(layer, "weight", branch)
    return len(layers)


def _trace(student: nn.Module) -> fx.Graph:
    try:
        graph = fx.Tracer().trace(student)
    except Exception as error:
        raise TrainingError(
            f"gap-preserving must follow the channels through {type(student).__name__}, and"
            f" torch.fx cannot: {type(error).__name__}: {str(error).splitlines()[0]}",
            "write forward() without branches that depend on tensors, or choose another method",
        ) from error
    inputs = [node.name for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) > 1:
        given = ", ".join(inputs)
        raise TrainingError(f"gap-preserving takes students of one input, not {given}", HINT)
    return graph


def _check_ties(student: nn.Module, grown: Iterable[str]) -> None:
    """Refuse a parameter of a grown layer that has another name too: one tensor cannot be two."""
    owners: dict[int, str] = {}
    layers = set(grown)
    for name, parameter in student.named_parameters(remove_duplicate=False):
        other = owners.setdefault(id(parameter), name)
        if other != name and {name.rpartition(".")[0], other.rpartition(".")[0]} & layers:
            raise TrainingError(f"gap-preserving cannot grow tied weights: {other}, {name}", HINT)


def _last_layers(graph: fx.Graph, modules: dict[str, nn.Module]) -> set[fx.Node]:
    """Mixing layers from which the logits are reached without another one."""
    pending = [node for node in graph.nodes if node.op == "output"]
    seen, found = set(pending), set[fx.Node]()
    while pending:
        for node in pending.pop().all_input_nodes:
            if node in seen:
                continue
            seen.add(node)
            if node.op == "call_module" and is_mixing(modules[str(node.target)]):
                found.add(node)
            else:
                pending.append(node)
    return found
