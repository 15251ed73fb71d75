"""Weights in and out: safetensors, or PyTorch files read without running the code in them."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from ..errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile
_SHOWN = 5


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights as safetensors; a tensor that has several names is stored once."""
    save_model(model, str(path))


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights into `model`, all or nothing.

    Args:
        model: the network that the weights were saved from, or one of the same keys and shapes.
        path: `.safetensors`, or `.pt`/`.pth` with a state dict, bare or under `state_dict`,
            `model_state_dict` or `model`.

    Raises:
        ModelError: no such file, an unreadable one, one that wants to run code, or one whose
            keys or shapes are not those of the model.
    """
    state = _bare(read_weights(path))
    faults = _differences(model, state)
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ModelError(
            f"{path} does not fit the model: {'; '.join(faults[:_SHOWN])}{more}",
            "Build the model with the options that the weights were trained with",
        )
    # Not strict: the other names of a shared tensor may be absent, which was checked above.
    model.load_state_dict(state, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file; see `load_weights`.

    Raises:
        ModelError: as `load_weights`, but for keys and shapes.
    """
    if not path.is_file():
        raise ModelError(f"There is no weights file {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as exc:
            raise ModelError(f"{path} is not a readable safetensors file: {exc}") from exc
    if path.suffix in (".pt", ".pth"):
        return _state_dict(_read_torch(path), path)
    expected = "expected .safetensors, .pt or .pth"
    raise ModelError(f"{path}: weights of kind {path.suffix!r}; {expected}")


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        if "Unsupported global" in str(exc) or "Unsupported class" in str(exc):
            what = "holds Python objects, and reading them would run the code they name"
            hint = "Save a state dict alone: torch.save(model.state_dict(), path)"
            raise ModelError(f"{path} {what}; it was not read", hint) from exc
        raise ModelError(f"{path} is not a PyTorch file: {_first_line(exc)}") from exc
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as exc:
        raise ModelError(f"{path} is not a readable PyTorch file: {_first_line(exc)}") from exc


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if isinstance(content, Mapping):
        strangers = {k: v for k, v in content.items() if not isinstance(v, Tensor)}
        if content and not strangers:
            return dict(content)
        what = f"a dict with {_names(strangers)}" if strangers else "an empty dict"
    else:
        what = f"a {type(content).__name__}"
    hint = f"Save model.state_dict(), bare or under {' or '.join(_WRAPPERS)}"
    raise ModelError(f"{path} holds {what}, not a state dict", hint)


def _names(entries: Mapping[Any, Any]) -> str:
    return ", ".join(f"{k} ({type(v).__name__})" for k, v in list(entries.items())[:_SHOWN])


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the prefix that a wrapping module put before each of them."""
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _differences(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    own = model.state_dict()
    names = _names_by_tensor(own)
    faults = []
    for key, tensor in own.items():
        shape = tuple(tensor.shape)
        if key in state and tuple(state[key].shape) != shape:
            faults.append(f"{key} is {tuple(state[key].shape)} in the file, {shape} in the model")
        elif not any(name in state for name in names[_identity(tensor)]):
            faults.append(f"{key} {shape} is missing in the file")
    strangers = [key for key in state if key not in own]
    return faults + [f"{key} {tuple(state[key].shape)} is not in the model" for key in strangers]


def _identity(tensor: Tensor) -> tuple[object, ...]:
    # Tensors without elements or storage have no address of their own.
    place = tensor.data_ptr() if tensor.numel() and not tensor.is_meta else id(tensor)
    return place, tensor.shape, tensor.stride()


def _names_by_tensor(state: Mapping[str, Tensor]) -> dict[tuple[object, ...], list[str]]:
    names: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for key, tensor in state.items():
        names[_identity(tensor)].append(key)
    return names


def _first_line(exc: BaseException) -> str:
    return next(iter(str(exc).splitlines()), "") or type(exc).__name__
