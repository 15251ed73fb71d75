"""A Keras model as a teacher: asked for logits, and for what its layers give, by their names."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..contracts import TensorSpec
from ..errors import ModelError
from ..options import nearest
from .foreignteacher import TO_NCHW, ForeignTeacher, Kept
from .tensorflow import import_tensorflow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from ..contracts import Array

_OWN_CODE = (
    "it cannot hold code of your own: save it by model.export(folder), and say"
    " teacher: {savedmodel: folder}"
)


class KerasTeacher(ForeignTeacher):
    """Runs a functional or sequential model that `model.save('file.keras')` wrote.

    Attributes:
        taps: names of the model's own layers, in order.
    """

    key: ClassVar[str] = "keras"

    @property
    def taps(self) -> tuple[str, ...]:
        layers = self.engine.model.layers
        return tuple(x.name for x in layers if type(x).__name__ != "InputLayer")

    def forward_with_taps(
        self, x: Tensor, names: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits `(N, C)` and the outputs of layers; a map is given as `(N, C, H, W)`.

        Of a layer that is used more than once, the first use.

        Raises:
            ModelError: there is no such layer, or it gives more than one tensor.
        """
        logits, *features = self._answer([x], names)
        return logits, dict(zip(names, map(self._as_nchw, features), strict=True))

    def keep(self, target: Path) -> Kept:
        shutil.copyfile(self.path, target)
        return Kept(int(self.engine.model.count_params()), self.layout)

    def _load(self) -> Any:
        tf = import_tensorflow()
        import keras

        if keras.backend.backend() != "tensorflow":
            raise ModelError(
                f"Keras runs on {keras.backend.backend()} here; expected tensorflow",
                'unset KERAS_BACKEND, and take "backend" out of ~/.keras/keras.json',
            )
        try:
            model = keras.saving.load_model(str(self.path), compile=False)
        except Exception as error:  # whatever the layers inside raise
            line = next(iter(str(error).splitlines()), "") or type(error).__name__
            hint = _OWN_CODE if isinstance(error, TypeError) or "Lambda" in line else ""
            raise ModelError(
                f"{self.path} is not a readable .keras file: {line}",
                hint or "write it by model.save('teacher.keras')",
            ) from error
        if not getattr(model, "inputs", None):
            raise ModelError(
                f"{self.path.name} is a {type(model).__name__} without inputs of its own; expected"
                " a functional or sequential model",
                "save it by model.export(folder), and say teacher: {savedmodel: folder}",
            )
        return _Engine(tf, keras, model)

    def _inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(x.name, tuple(x.shape), x.dtype) for x in self.engine.model.inputs)

    def _outputs(self) -> tuple[str, ...]:
        return tuple(x.name for x in self.engine.model.outputs)

    def _run(self, feeds: dict[str, Array], layers: Sequence[str]) -> list[Array]:
        network = self.engine.network(tuple(layers))
        given = network(*(feeds[x.name] for x in self.engine.model.inputs))
        values = given if isinstance(given, list | tuple) else [given]  # one comes without a list
        return [value.numpy() for value in values]

    def _as_nchw(self, feature: Tensor) -> Tensor:
        if feature.ndim != 4 or self.engine.channels_first:
            return feature
        return feature.permute(TO_NCHW).contiguous(memory_format=torch.contiguous_format)


class _Engine:
    """A model, and functions over its layers that also give what some of them gave."""

    def __init__(self, tf: Any, keras: Any, model: Any) -> None:
        self._tf, self._keras, self.model = tf, keras, model
        self._networks: dict[tuple[str, ...], Any] = {}
        formats = {getattr(layer, "data_format", None) for layer in model.layers}
        self.channels_first = "channels_first" in formats

    def network(self, layers: tuple[str, ...]) -> Any:
        """A function of the inputs, in order: the logits, then these layers' outputs."""
        if layers not in self._networks:
            inputs = list(self.model.inputs)
            model = self._keras.Model(inputs, [self.model.outputs[0], *map(self._tap, layers)])
            # One graph for batches of any size, unless the model is fixed to one.
            signature = [self._tf.TensorSpec(x.shape, x.dtype) for x in inputs]
            self._networks[layers] = self._tf.function(
                lambda *given: model(list(given), training=False), input_signature=signature
            )
        return self._networks[layers]

    def _tap(self, name: str) -> Any:
        known = {layer.name: layer for layer in self.model.layers}
        if name not in known:
            hint = f"{nearest(name, list(known))}; or any name of model.layers"
            raise ModelError(f"the teacher has no layer {name!r}", hint)
        try:
            output = known[name].output
        except (AttributeError, ValueError) as error:
            raise ModelError(
                f"layer {name!r} of the teacher gives nothing that can be read: {error}",
                "tap another layer",
            ) from error
        if isinstance(output, list | tuple | dict):
            raise ModelError(
                f"layer {name!r} of the teacher gives {len(output)} tensors; expected one",
                "tap another layer",
            )
        return output
