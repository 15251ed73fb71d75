"""From `{"model": "dscnn", "options": {"width": 24}}` to a network.

A user's function and a built-in family are called the same way: options as keywords, plus
`num_classes` and `input_shape` (or `input_shapes`, by name) where the signature asks for them.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import plugins
from ..errors import ModelError
from ..options import parse_options
from ..usercode import check_arguments, load_user_function
from .catalog import ModelFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path


def build_model(
    spec: Mapping[str, Any],
    num_classes: int,
    input_shapes: Mapping[str, tuple[int, ...]],
    root: Path,
) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        spec: `{"model": NAME or "file.py:function", "options": {...}}`.
        num_classes: size of the logits.
        input_shapes: input name -> shape without the batch axis, in call order.
        root: the folder that a user's file is relative to.

    Raises:
        ConfigError: no such model.
        ModelError: wrong options, a shape that does not fit, a failing user
            function, or one that does not return an `nn.Module`.
    """
    reference, options = str(spec["model"]), dict(spec.get("options") or {})
    owner = f"model {reference!r}"
    factory: Callable[..., Any]
    if ":" in reference:
        factory = load_user_function(reference, root)
    else:
        family = find_family(reference)
        options = dict(parse_options(family.Options, options, owner, ModelError))
        factory = _load_factory(family)
    arguments = {**options, **_offered(factory, owner, num_classes, input_shapes)}
    check_arguments(factory, arguments, owner, ModelError)
    model = factory(**arguments)
    if not isinstance(model, nn.Module):
        got = type(model).__name__
        raise ModelError(f"{owner} returned {got}", "Return a torch.nn.Module instance")
    return model


def find_family(name: str) -> ModelFamily:
    """A model family, built in or from a plugin, by its entry point.

    Raises:
        ConfigError: no such family.
        ModelError: the plugin gives something else.
    """
    family = plugins.load("models", name)
    if not isinstance(family, ModelFamily):
        hint = "The entry point of the plugin must name a ModelFamily"
        raise ModelError(f"model {name!r} is a {type(family).__name__}", hint)
    return family


def call_model(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Run a model: a single input by position, several by keyword.

    Args:
        model: gives logits `(N, C)`.
        inputs: input name -> `(N, ...)`.

    Raises:
        ModelError: the model does not return a single tensor.
    """
    logits = model(*inputs.values()) if len(inputs) == 1 else model(**inputs)
    if not isinstance(logits, Tensor):
        got = type(logits).__name__
        raise ModelError(f"The model returned {got}, not a tensor", "Return the logits (N, C) only")
    return logits


def positional(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """A model as exporters call it: one tensor per input, in order.

    Args:
        model: as for `call_model`.
        names: of its inputs.
    """
    return model if len(names) == 1 else _Positional(model, names)


class _Positional(nn.Module):
    """Hands positional inputs on by name."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in names]
        # torch.export pairs dynamic axes with the parameters that a forward declares.
        self.forward = functools.partial(self._call)
        self.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def _call(self, *inputs: Tensor) -> Tensor:
        return call_model(self.model, dict(zip(self.names, inputs, strict=True)))


def check_model(model: nn.Module, inputs: Mapping[str, Tensor], num_classes: int) -> None:
    """Run a model once in eval mode and check the shape of its logits.

    Args:
        model: left in the mode that it was in.
        inputs: a few samples, input name -> `(N, ...)`.
        num_classes: wanted size of the logits.

    Raises:
        ModelError: the model fails on these inputs, or its logits have another shape.
    """
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    wanted = (next(iter(shapes.values()))[0], num_classes)
    try:
        with torch.no_grad(), keeping_modes(model):
            got = tuple(call_model(model.eval(), inputs).shape)
    except ModelError:
        raise
    except Exception as exc:
        told = {
            name: f"{v.dtype} {shapes[name]}".removeprefix("torch.") for name, v in inputs.items()
        }
        what = f"The model cannot take inputs {told}: {type(exc).__name__}: {exc}"
        raise ModelError(what, _hint(exc, inputs)) from exc
    if got != wanted:
        hint = f"The data has {num_classes} classes"
        raise ModelError(f"For inputs {shapes} the model gives {got}, expected {wanted}", hint)


def _hint(error: Exception, inputs: Mapping[str, Tensor]) -> str:
    """What to do where a model's first call failed, if that can be told."""
    if "unexpected keyword argument" in str(error):
        return f"Parameters of forward() bear the names of the inputs: {', '.join(inputs)}"
    if "indices" in str(error) and "FloatTensor" in str(error):
        return "Numbers become float32 unless the data says: preprocessing: {NAME: {dtype: int64}}"
    return ""


@contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Put every module back in the mode, train or eval, that it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _load_factory(family: ModelFamily) -> Callable[..., Any]:
    module, _, name = family.factory.partition(":")
    factory: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return factory


def _offered(
    factory: Callable[..., Any],
    owner: str,
    num_classes: int,
    input_shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Any]:
    """Those facts about the task that the factory's signature asks for."""
    wanted = inspect.signature(factory).parameters
    offer: dict[str, Any] = {"num_classes": num_classes, "input_shapes": dict(input_shapes)}
    if len(input_shapes) == 1:
        offer["input_shape"] = next(iter(input_shapes.values()))
    elif "input_shape" in wanted:
        names = ", ".join(input_shapes)
        hint = "Take a function of yours with a parameter `input_shapes`"
        raise ModelError(f"{owner} takes one input; the data has {names}", hint)
    return {name: value for name, value in offer.items() if name in wanted}
