"""Teachers that are no torch module, and what must be known of them before any is opened.

`plan` and the config's checks read this page, so it imports no library; the classes are in the
modules that `teacher` names.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast

from ..contracts import Missing
from ..errors import MissingDependency

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .foreignteacher import ForeignTeacher

Layout = Literal["nchw", "nhwc"]


@dataclass(frozen=True, slots=True)
class ForeignKind:
    """A kind of file that can teach.

    Attributes:
        key: of the section `teacher`, which names the file.
        what: the file, in words, after "an existing".
        file: name of the file, or of the folder, in the teacher's artefact.
        format: the format that it is measured in.
        converted: whether it becomes that format by a conversion; else it is that format.
        libraries: import names.
        distributions: whose versions decide what it answers.
        extra: of edgedistill, which brings the libraries.
        teacher: `module:class` beside this page.
        layout: of its images where their shape leaves it open; empty asks the user.
        no_softmax: how to make it give logits.
    """

    key: str
    what: str
    file: str
    format: str
    converted: bool
    libraries: tuple[str, ...]
    distributions: tuple[str, ...]
    extra: str
    teacher: str
    layout: Layout | Literal[""]
    no_softmax: str

    def missing(self) -> Missing | None:
        """What is not installed to ask such a teacher."""
        absent = tuple(name for name in self.libraries if find_spec(name) is None)
        return Missing(absent, self.extra) if absent else None

    def require(self) -> None:
        """See that its libraries are there.

        Raises:
            MissingDependency: with the pip line that brings them.
        """
        lacking = self.missing()
        if lacking is not None:
            names = ", ".join(lacking.libraries)
            message = f"teacher.{self.key} needs {names}, not installed here"
            raise MissingDependency(message, lacking.pip_line)

    def is_there(self, path: Path) -> bool:
        """Whether a path holds such a file, by its looks."""
        return path.is_file()

    def content(self, path: Path) -> list[Path]:
        """Every file that it is made of."""
        return [path]

    def teacher_class(self) -> type[ForeignTeacher]:
        """The class that asks it."""
        module, _, name = self.teacher.partition(":")
        found: Any = getattr(importlib.import_module(f".{module}", __package__), name)
        return cast("type[ForeignTeacher]", found)


class _Onnx(ForeignKind):
    __slots__ = ()

    def content(self, path: Path) -> list[Path]:
        """With the weights that exporters put beside it: `model.onnx.data`, `model.onnx_data`."""
        beside = (p for p in path.parent.iterdir() if p.name.startswith(path.name))
        return sorted(p for p in beside if p.is_file())


class _SavedModel(ForeignKind):
    __slots__ = ()

    def is_there(self, path: Path) -> bool:
        return (path / "saved_model.pb").is_file()

    def content(self, path: Path) -> list[Path]:
        return sorted(p for p in path.rglob("*") if p.is_file())


TAKE_OFF = "take the softmax off its end; where that cannot be done, return its logarithm"

FOREIGN: Mapping[str, ForeignKind] = {
    kind.key: kind
    for kind in (
        _Onnx(
            key="onnx",
            what=".onnx file",
            file="teacher.onnx",
            format="onnx",
            converted=False,
            libraries=("onnx", "onnxruntime"),
            distributions=("onnxruntime",),
            extra="onnx",
            teacher="onnxteacher:OnnxTeacher",
            layout="nchw",
            no_softmax=TAKE_OFF,
        ),
        ForeignKind(
            key="keras",
            what=".keras file",
            file="teacher.keras",
            format="tflite",
            converted=True,
            libraries=("tensorflow", "keras"),
            distributions=("tensorflow", "keras"),
            extra="tensorflow",
            teacher="kerasteacher:KerasTeacher",
            layout="",
            no_softmax="set model.layers[-1].activation = None (keras.activations.linear) and save"
            " it again",
        ),
        _SavedModel(
            key="savedmodel",
            what="folder with a saved_model.pb",
            file="teacher.savedmodel",
            format="tflite",
            converted=True,
            libraries=("tensorflow",),
            distributions=("tensorflow",),
            extra="tensorflow",
            teacher="savedmodelteacher:SavedModelTeacher",
            layout="",
            no_softmax=TAKE_OFF,
        ),
        ForeignKind(
            key="tflite",
            what=".tflite file",
            file="teacher.tflite",
            format="tflite",
            converted=False,
            libraries=("ai_edge_litert",),
            distributions=("ai-edge-litert",),
            extra="tflite",
            teacher="tfliteteacher:TfliteTeacher",
            layout="",
            no_softmax=TAKE_OFF,
        ),
    )
}


def kept_in(folder: Path) -> ForeignKind | None:
    """The kind of the foreign teacher that an artefact's folder holds, if any."""
    return next((kind for kind in FOREIGN.values() if (folder / kind.file).exists()), None)
