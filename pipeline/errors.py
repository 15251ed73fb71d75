"""The tree of errors. Each one knows its exit code and says the next step.

EdgeDistillError            1   anything that a person can act on
+-- ConfigError             2   edge.yaml or a command line is wrong (carries every fault)
+-- MissingDependency       2   an extra is not installed (carries the exact pip line)
+-- DataError               1   the data breaks its contract
+-- ModelError              1   a model or its weights cannot be used
+-- TrainingError           1   training stopped (NaN loss, ...)
+-- ExportError             1   a format could not be written
|   +-- ParityError         1   it was written, but it does not answer like the student
+-- TargetError             1   a runtime or a device failed
+-- ChildError              1   a child process crashed, hung or was killed
+-- StageError              1   a stage failed in a way that nobody foresaw
+-- StoreError              1   the store cannot be read or written
+-- BundleError             1   a bundle is damaged, unsafe or of another schema
+-- GoalMissed              3   everything ran, a goal was missed
+-- Interrupted           130   Ctrl-C; the same command resumes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class EdgeDistillError(Exception):
    """Base of every error that edgedistill raises on purpose.

    Args:
        message: what was wrong, with the value, and what was expected.
        hint: what to do next, as one sentence.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a config file.

    Attributes:
        path: dotted path of the key, such as `distill.epochs`.
        where: `file:line`, or the `--set` argument that gave the value.
        value: the offending value as written.
        expected: what would have been accepted.
        hint: the nearest known name, or how to mend it.
    """

    path: str
    where: str
    value: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.where}: {self.path} = {self.value}: expected {self.expected}{hint}"


class ConfigError(EdgeDistillError):
    """A config file or a command line is wrong; `faults` lists everything at once."""

    exit_code = 2

    def __init__(self, message: str, faults: Sequence[Fault] = (), hint: str = "") -> None:
        super().__init__(message, hint)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        lines = [self.message, *(f"  {fault}" for fault in self.faults)]
        return "\n".join([*lines, f"  -> {self.hint}"] if self.hint else lines)


class MissingDependency(EdgeDistillError):
    """A library is not installed; the hint is the exact pip line."""

    exit_code = 2


class DataError(EdgeDistillError):
    """The data breaks its contract (NaN, an empty split, labels out of range, ...)."""


class ModelError(EdgeDistillError):
    """A model cannot be built, or its weights cannot be loaded."""


class TrainingError(EdgeDistillError):
    """Training stopped; the last good checkpoint is kept."""


class ExportError(EdgeDistillError):
    """A model could not be written in a format."""


class ParityError(ExportError):
    """An exported model does not answer like the model it was made from."""


class TargetError(EdgeDistillError):
    """A runtime or a device failed."""


class ChildError(EdgeDistillError):
    """A child process crashed, ran out of time or was killed."""


class StageError(EdgeDistillError):
    """A stage raised something that nobody foresaw; the original error is its cause."""


class StoreError(EdgeDistillError):
    """The store of artefacts cannot be read or written."""


class BundleError(EdgeDistillError):
    """A bundle is damaged, unsafe, or of a schema that this version does not know."""


class GoalMissed(EdgeDistillError):
    """Everything ran and every artefact was kept, but a goal was missed."""

    exit_code = 3


class Interrupted(EdgeDistillError):
    """The user pressed Ctrl-C; the same command resumes."""

    exit_code = 130
