"""A SavedModel of TensorFlow as a teacher; it has no layers to tap."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, ClassVar

from ..contracts import TensorSpec
from ..errors import ModelError
from .foreignteacher import ForeignTeacher, Kept
from .tensorflow import import_tensorflow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..contracts import Array

SERVING = "serving_default"


class SavedModelTeacher(ForeignTeacher):
    """Asks the signature `serving_default` of a SavedModel, or its only one."""

    key: ClassVar[str] = "savedmodel"
    ordered: ClassVar[bool] = False

    def keep(self, target: Path) -> Kept:
        shutil.copytree(self.path, target)
        sizes = [variable.shape.num_elements() for variable in self.engine.model.variables]
        return Kept(sum(sizes), self.layout)

    def _load(self) -> Any:
        tf = import_tensorflow()
        try:
            model = tf.saved_model.load(str(self.path))
        except Exception as error:  # whatever the layers inside raise
            line = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ModelError(f"{self.path} is not a readable SavedModel: {line}") from error
        return _Engine(tf, model, serving(model, self.path.name))

    def _inputs(self) -> tuple[TensorSpec, ...]:
        named = self.engine.function.structured_input_signature[1]
        return tuple(_spec(name, port) for name, port in sorted(named.items()))

    def _outputs(self) -> tuple[str, ...]:
        return tuple(sorted(self.engine.function.structured_outputs))

    def _run(self, feeds: dict[str, Array], layers: Sequence[str]) -> list[Array]:
        tensors = {name: self.engine.tf.constant(value) for name, value in feeds.items()}
        return [value.numpy() for value in self.engine.function(**tensors).values()]


class _Engine:
    def __init__(self, tf: Any, model: Any, function: Any) -> None:
        self.tf = tf
        self.model = model  # a function alone lets go of its variables
        self.function = function


def serving(model: Any, name: str) -> Any:
    """The function that a loaded SavedModel is asked by.

    Raises:
        ModelError: it has no signature, or several and none of the usual name.
    """
    signatures = dict(model.signatures)
    if SERVING in signatures:
        return signatures[SERVING]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    raise ModelError(
        f"{name} has the signatures {sorted(signatures)}; expected one, or {SERVING!r}",
        f"save it with signatures={{{SERVING!r}: function}}; model.export(folder) of Keras does",
    )


def _spec(name: str, port: Any) -> TensorSpec:
    known = port.shape.rank is not None
    shape = tuple(port.shape.as_list()) if known else ()
    return TensorSpec(name, shape, port.dtype.name)
