"""Features of a model, read without forward hooks.

A model that has `forward_with_taps(x, names) -> (logits, {name: feature})` is asked for them, as
the built-in ones are. Of any other module torch.fx writes a graph down that also returns what the
wanted layers gave; it calls the module's own layers, so nothing is copied and nothing has to be
taken off again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from ..errors import ModelError
from ..models.build import call_model, keeping_modes
from ..options import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..contracts import Tap

POSITIONS = ("first", "middle", "last")


def tap_names(model: nn.Module) -> tuple[str, ...]:
    """The model's own list of layers to tap, in order; of a plain module, its direct children."""
    own = getattr(model, "taps", None)
    return tuple(own) if own is not None else tuple(name for name, _ in model.named_children())


def resolve(model: nn.Module, layer: str, role: str) -> str:
    """Name of the layer that a tap means.

    Args:
        model: whose layer.
        layer: a name, or `first`, `middle`, `last`.
        role: `teacher` or `student`, for messages.

    Raises:
        ModelError: there is no such layer; names the nearest.
    """
    listed = tap_names(model)
    known = {*listed, *(name for name, _ in model.named_modules() if name)}
    if layer in known or (layer not in POSITIONS and hasattr(model, "forward_with_taps")):
        return layer
    body = listed[:-1] or listed  # the head gives the logits
    if layer in POSITIONS and body:
        return body[{"first": 0, "middle": len(body) // 2, "last": -1}[layer]]
    if layer in POSITIONS:
        raise ModelError(
            f"the {role} is one piece, {type(model).__name__}: it has no layers to tap",
            "take a method that needs logits alone, such as kd",
        )
    hint = f"{nearest(layer, listed)}; or any name of model.named_modules()"
    raise ModelError(f"the {role} has no layer {layer!r}", hint)


class Tapped:
    """Runs a model and gives its logits and features.

    Args:
        model: gives logits `(N, C)`; it stays the owner of its parameters.
        taps: what is wanted.
        role: `teacher` or `student`, for messages.

    Attributes:
        layers: tap -> name of the layer that it means.

    Raises:
        ModelError: a layer does not exist, or the model cannot be traced.
    """

    def __init__(self, model: nn.Module, taps: Sequence[Tap], role: str) -> None:
        self.model, self.role = model, role
        self.layers = {tap: resolve(model, tap.layer, role) for tap in taps}
        names = list(dict.fromkeys(self.layers.values()))
        self._names = names
        self._graphs: dict[bool, fx.GraphModule] = {}
        if names and not hasattr(model, "forward_with_taps"):
            # Two graphs: what a forward() decides by `self.training` is written down once.
            self._graphs = {mode: _trace(model, names, mode, role) for mode in (True, False)}

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[Tap, Tensor]]:
        """Logits `(N, C)` fp32, and the features by tap, fp32, reduced as they ask."""
        if not self._names:
            return call_model(self.model, inputs).float(), {}
        logits, features = self._run(inputs)
        wanted = self.layers.items()
        reduced = {tap: reduce(features[name].float(), tap, name) for tap, name in wanted}
        return logits.float(), reduced

    def _run(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        if self._graphs:
            graph = self._graphs[self.model.training]
            given: Any = graph(*inputs.values()) if len(inputs) == 1 else graph(**inputs)
        else:
            if len(inputs) != 1:
                raise ModelError(
                    f"forward_with_taps of the {self.role} takes one input, the data has"
                    f" {len(inputs)} ({', '.join(inputs)})",
                    "leave forward_with_taps out: layers of a plain module are found by torch.fx",
                )
            (x,) = inputs.values()
            given = self.model.forward_with_taps(x, self._names)  # type: ignore[operator]
        logits, features = given
        return logits, features


def reduce(feature: Tensor, tap: Tap, name: str) -> Tensor:
    """What a tap wants of a feature.

    Args:
        feature: `(N, C)`, tokens `(N, T, C)`, or a map `(N, C, H, W)`.
        tap: says how to reduce it.
        name: of the layer, for messages.

    Raises:
        ModelError: the reduction means nothing for a feature of this shape.
    """
    if tap.reduce == "pooled":
        spatial = {2: (), 3: (1,), 4: (2, 3)}.get(feature.ndim)
        if spatial is not None:
            return feature.mean(spatial) if spatial else feature
    elif tap.reduce == "attention":
        if feature.ndim == 4:
            return feature.square().mean(dim=1)
    else:
        return feature
    wanted = "a map (N, C, H, W)" if tap.reduce == "attention" else "(N, C), (N, T, C) or a map"
    raise ModelError(
        f"layer {name!r} gives {tuple(feature.shape)}: expected {wanted}",
        "tap another layer, or take a method that needs logits alone, such as kd",
    )


class _Tracer(fx.Tracer):
    """Remembers which node stands for the output of each wanted module, leaf or not."""

    def __init__(self, wanted: Sequence[str]) -> None:
        super().__init__()
        self.wanted, self.found = wanted, dict[str, fx.Node]()

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        path = self.path_of_module(m)
        if path in self.wanted and isinstance(result, fx.Proxy):
            self.found[path] = result.node  # of a module that is used twice, the last use
        return result


def _trace(model: nn.Module, names: Sequence[str], training: bool, role: str) -> fx.GraphModule:
    """A graph over the model's own modules that returns (logits, {name: feature})."""
    tracer = _Tracer(names)
    try:
        with keeping_modes(model):
            graph = tracer.trace(model.train(training))
    except Exception as error:
        raise ModelError(
            f"layers of the {role} {type(model).__name__} cannot be read: torch.fx cannot follow"
            f" its forward(): {type(error).__name__}: {str(error).splitlines()[0]}",
            "give the model a method forward_with_taps(x, names) -> (logits, {name: feature})",
        ) from error
    missing = [name for name in names if name not in tracer.found]
    if missing:
        raise ModelError(
            f"layer {missing[0]!r} of the {role} is never called by its forward()",
            nearest(missing[0], tracer.found or tap_names(model)),
        )
    (output,) = (node for node in graph.nodes if node.op == "output")
    features = {}
    for name, node in tracer.found.items():
        with graph.inserting_after(node):
            # A copy: a ReLU that works in place may follow.
            features[name] = graph.call_method("clone", (node,))
    output.args = ((output.args[0], features),)
    graph.lint()
    return fx.GraphModule(model, graph)


def shapes(tapped: Tapped, inputs: Mapping[str, Tensor]) -> dict[Tap, tuple[int, ...]]:
    """Shape of every feature of one sample, without the batch axis, probed by one eval pass."""
    with torch.no_grad(), keeping_modes(tapped.model):
        tapped.model.eval()
        _, features = tapped(inputs)
    return {tap: tuple(feature.shape[1:]) for tap, feature in features.items()}
