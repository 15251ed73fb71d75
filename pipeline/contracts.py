"""The ground floor: the types through which the parts of edgedistill know each other.

Exporters, targets and methods import nothing of the pipeline but this file and `errors`.
They are Protocols, so that a plugin needs no base class of ours. Nothing heavy is imported:
`edgedistill --help` reads this file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Array: TypeAlias = NDArray[Any]
    Arrays: TypeAlias = Mapping[str, NDArray[Any]]

Precision: TypeAlias = Literal["fp32", "fp16", "int8", "int8-dynamic"]
Evidence: TypeAlias = Literal[
    "measured on device",
    "measured on this host",
    "functional (emulated)",
    "software GPU",
    "unavailable",
]

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8-dynamic")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named input or output of a model.

    Attributes:
        name: the name that feeds and results use.
        shape: sizes with the batch axis first; `None` is a free axis.
        dtype: NumPy name of the element type, such as `float32`.
        layout: one letter per axis, such as `NCHW`; empty when the axes have no such meaning.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    layout: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        return cls(data["name"], tuple(data["shape"]), data["dtype"], data.get("layout", ""))


@dataclass(frozen=True, slots=True)
class Signature:
    """Named inputs and outputs of a model, in call order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        return cls(
            tuple(TensorSpec.from_json(spec) for spec in data["inputs"]),
            tuple(TensorSpec.from_json(spec) for spec in data["outputs"]),
        )


@dataclass(frozen=True, slots=True)
class Artifact:
    """A folder of files that is complete and was verified: made by the store and by nothing else.

    Attributes:
        kind: what it is: `data`, `model`, a format such as `onnx`, `measurements`, ...
        precision: `fp32`, `fp16`, `int8`, or empty where the word means nothing.
        root: the folder.
        files: relative posix path -> sha256 of the content.
        signature: named inputs and outputs, for a deployable model.
        key: hash of HOW it was made (stage, settings, inputs, versions).
        digest: hash of WHAT it is (kind, precision, signature and content).
    """

    kind: str
    precision: str
    root: Path
    files: Mapping[str, str]
    signature: Signature | None
    key: str
    digest: str

    @property
    def size_bytes(self) -> int:
        """Size of the model itself: every file but our own JSON side notes."""
        names = (name for name in self.files if not name.endswith(".json"))
        return sum((self.root / name).stat().st_size for name in names)


@dataclass(slots=True)
class Workspace:
    """Where one stage works.

    Attributes:
        out: an empty folder; what the stage leaves here becomes the artefact.
        scratch: a folder that survives a kill, so that a stage can resume; gone when it is done.
        progress: called as `progress(done, total, note)`; cheap, may be called often.
        failures: message of every stage that failed so far, by name.
        describe: what the artefact is; the stage fills it in.
    """

    out: Path
    scratch: Path
    progress: Callable[[int, int, str], None]
    failures: Mapping[str, str] = field(default_factory=dict)
    describe: Description = field(default_factory=lambda: Description())


@dataclass(slots=True)
class Description:
    """Kind, precision and signature of an artefact in the making."""

    kind: str = ""
    precision: str = ""
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a plan: data, not a class hierarchy.

    Attributes:
        name: unique in its plan; progress, errors and `--until`/`--again` use it.
        needs: stages whose artefacts it cannot do without.
        optional: stages whose artefacts it uses if they succeeded.
        settings: all that changes the result; part of the key.
        version: raised whenever the code of the stage changes its result; part of the key.
        libraries: distributions whose versions are part of the key.
        run: does the work, given the artefacts of `needs` and `optional`.
        alone: measures time, so nothing else may run beside it.
        tells_failures: what failed before it is part of what it makes, and so of the key.
    """

    name: str
    needs: tuple[str, ...]
    settings: Mapping[str, Any]
    version: int
    run: Callable[[Mapping[str, Artifact], Workspace], None]
    optional: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    alone: bool = True
    tells_failures: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """Libraries that a plugin needs and the environment lacks.

    Attributes:
        libraries: import names that were not found.
        extra: the extra of edgedistill that brings them.
    """

    libraries: tuple[str, ...]
    extra: str

    @property
    def pip_line(self) -> str:
        return f"pip install 'edgedistill[{self.extra}]'"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a method asks of the loop for every batch.

    Attributes:
        labels: the ground truth.
        teacher: the teacher's logits.
    """

    labels: bool = True
    teacher: bool = True


@dataclass(frozen=True, slots=True)
class Batch:
    """What a method's loss may see of one batch of `N` samples.

    Attributes:
        student: student logits `(N, C)`, fp32, with gradient.
        teacher: teacher logits `(N, C)`, fp32, detached; None unless the method needs them.
        targets: labels `(N,)`, int64.
        epoch: 0 for the first epoch.
        progress: share of the whole training that is done, from 0 to 1.
    """

    student: Tensor
    teacher: Tensor | None
    targets: Tensor
    epoch: int
    progress: float


class Method(Protocol):
    """A distillation method: one paper, one file.

    The class is read by `plan` and `list`, so its module must not import torch at module level;
    functions import it when they run.

    Attributes:
        name: as in edge.yaml.
        summary: one line for `list methods`.
        citation: authors, title, year.
        Options: pydantic model of the method's own keys in the `distill` section.
        needs: what the loop must provide.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str]
    Options: ClassVar[type[Any]]
    needs: Needs

    def __init__(self, options: Any) -> None:
        """Take a parsed `Options`."""

    def helpers(self, student: nn.Module) -> nn.Module | None:
        """Trainable helpers (projectors, probes, ...): trained with the student, never exported."""

    def loss(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        """The loss by parts, fp32 scalars; the loop minimises their sum."""

    def finish(self, student: nn.Module) -> nn.Module:
        """The bare student: original keys, no hooks, no projectors. Only this is exported."""


class Exporter(Protocol):
    """Writes ONE format. Runs in a child process with only what it needs imported.

    Attributes:
        kind: the format, as in edge.yaml.
        precisions: what it can write.
        version: raised when the code changes what is written.
        libraries: distributions whose versions change what is written.
    """

    kind: ClassVar[str]
    precisions: ClassVar[tuple[Precision, ...]]
    version: ClassVar[int]
    libraries: ClassVar[tuple[str, ...]]

    def missing(self) -> Missing | None:
        """What is not installed, or None."""

    def export(self, model: nn.Module, signature: Signature, folder: Path) -> Signature:
        """Write `model` as fp32 into `folder`.

        Args:
            model: in eval mode; called with one tensor per input, in the order of the signature.
            signature: what the model takes and gives; a None size is the free batch axis.
            folder: empty.

        Returns:
            The signature of the file as written (an axis may have become fixed).

        Raises:
            ExportError: says which operator, in which format, and a way out.
        """

    def convert(
        self, source: Artifact, precision: Precision, samples: Arrays, folder: Path
    ) -> Signature:
        """Write the fp32 artefact `source` in another precision into `folder`.

        Args:
            source: an artefact of this exporter's kind, fp32.
            precision: one of `precisions`, not fp32.
            samples: calibration inputs by name, `(M, ...)`.
            folder: empty.
        """


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What a session tells about itself.

    Attributes:
        runtime: `onnxruntime`, `openvino`, `litert`, ...
        version: of the runtime.
        device: where it really runs, as the runtime says.
        precision: the arithmetic that is really used, as far as the runtime tells.
        threads: worker threads set.
        load_ms: milliseconds from the file to a model that is ready to run.
        first_ms: milliseconds of the first inference.
        peak_rss_bytes: largest resident size of the worker process so far.
    """

    runtime: str
    version: str
    device: str
    precision: str
    threads: int
    load_ms: float
    first_ms: float | None
    peak_rss_bytes: int


class Session(Protocol):
    """An artefact that is loaded and ready on a target. Close it, or use it in a `with`.

    Attributes:
        signature: named inputs and outputs, with the shapes and dtypes of the file itself.
    """

    signature: Signature

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Outputs by name for `(N, ...)` inputs; the session splits the batch as the file needs."""

    def time(self, feeds: Arrays, repeats: int) -> NDArray[np.float64]:
        """Seconds of each of `repeats` inferences on `feeds` (batch 1), outputs read."""

    def facts(self) -> SessionFacts: ...

    def close(self) -> None: ...

    def __enter__(self) -> Session: ...

    def __exit__(self, *exc: object) -> None: ...


class Target(Protocol):
    """A place with runtimes. A missing device is never a pass.

    Attributes:
        name: as in edge.yaml.
        evidence: how much a figure from here proves.
    """

    name: ClassVar[str]
    evidence: ClassVar[Evidence]

    def accepts(self, kind: str) -> bool:
        """Whether artefacts of this kind can run here."""

    def missing(self, kind: str) -> Missing | None:
        """What is not installed to run artefacts of this kind, or None."""

    def open(self, artifact: Artifact, threads: int) -> Session:
        """Load an artefact.

        Raises:
            TargetError: the runtime refused the file, or its worker died.
        """

    def facts(self) -> dict[str, Any]:
        """Fingerprint of the machine: CPU model and features, cores, governor, load, ..."""
