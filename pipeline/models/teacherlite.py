"""A TensorFlow teacher as a .tflite file, to be timed: made by TensorFlow's own converter.

The file takes one sample as the data has it, images NCHW, like the student's.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError
from .foreignteacher import TO_NHWC
from .kerasteacher import KerasTeacher
from .savedmodelteacher import serving
from .tensorflow import import_tensorflow

if TYPE_CHECKING:
    from .foreignteacher import Feed, ForeignTeacher

_WITHOUT = "the run goes on without the teacher's latency, and cannot tell a speed-up"


def to_tflite(teacher: ForeignTeacher) -> bytes:
    """Convert a teacher.

    Args:
        teacher: a Keras model or a SavedModel.

    Returns:
        Content of the file; its signature has the names of the data.

    Raises:
        ExportError: TFLite cannot express it.
    """
    tf = import_tensorflow()
    with tempfile.TemporaryDirectory() as scratch:
        model = tf.saved_model.load(str(_saved(teacher, Path(scratch))))
        function = _as_the_data(tf, model, teacher)
        holder = tf.Module()
        holder.model = model  # it keeps the variables alive
        concrete = [function.get_concrete_function()]
        try:
            converter = tf.lite.TFLiteConverter.from_concrete_functions(concrete, holder)
            return bytes(converter.convert())
        except Exception as error:  # the converter's own class is the base of nothing else
            raise ExportError(
                f"tflite: the teacher cannot be converted: {_reason(str(error))}", _WITHOUT
            ) from error


def _saved(teacher: ForeignTeacher, scratch: Path) -> Path:
    """The teacher as a SavedModel: from there the weights become constants."""
    if not isinstance(teacher, KerasTeacher):
        return teacher.path
    folder = scratch / "saved"
    teacher.engine.model.export(str(folder), verbose=False)
    return folder


def _as_the_data(tf: Any, model: Any, teacher: ForeignTeacher) -> Any:
    """A function of one sample of the data, with the data's names."""
    serve = serving(model, teacher.path.name)
    wanted = serve.structured_input_signature[1]
    sources = dict(zip(teacher.feeds, _ports(teacher, list(wanted)), strict=True))
    specs = {spec.name: spec for spec in teacher.data.inputs}
    signature = [
        tf.TensorSpec([feed.batch or 1, *specs[feed.source].shape[1:]], specs[feed.source].dtype,
                      name=feed.source)
        for feed in teacher.feeds
    ]  # fmt: skip

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def call(*given: Any) -> dict[str, Any]:
        pairs = zip(sources.items(), given, strict=True)
        feeds = {port: _turned(tf, value, feed, wanted[port]) for (feed, port), value in pairs}
        (logits,) = serve(**feeds).values()
        return {teacher.data.outputs[0].name: tf.cast(logits, tf.float32)}

    return call


def _ports(teacher: ForeignTeacher, wanted: list[str]) -> list[str]:
    """Names of the signature's inputs, in the order of the feeds: an export may change them."""
    names = [feed.name for feed in teacher.feeds]
    if set(names) != set(wanted) and len(names) > 1:
        raise ExportError(
            f"tflite: the teacher's inputs {names} became {wanted} on the way", _WITHOUT
        )
    return names if set(names) == set(wanted) else wanted


def _turned(tf: Any, value: Any, feed: Feed, port: Any) -> Any:
    turned = tf.transpose(value, TO_NHWC) if feed.to_nhwc else value
    return tf.cast(turned, port.dtype)


def _reason(message: str) -> str:
    operators = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", message)))
    if operators:
        return f"TFLite has no operator for {', '.join(f'tf.{name}' for name in operators)}"
    return next((line for line in message.splitlines() if line.strip()), "no reason given")
