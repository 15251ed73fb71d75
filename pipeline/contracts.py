"""The ground floor: the types through which the parts of edgedistill know each other.

Exporters, targets and methods import nothing of the pipeline but this file and `errors`.
Exporters and targets are Protocols, so that a plugin needs no base class of ours; a method has many
hooks and few of them to write, so it is a base class. Nothing heavy is imported:
`edgedistill --help` reads this file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from pydantic import BaseModel
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
        """Size of the model itself, in bytes."""
        return sum((self.root / name).stat().st_size for name in self.model_files)

    @property
    def model_files(self) -> list[str]:
        """What a device needs: no side notes, and no captured program to convert from."""
        return sorted(name for name in self.files if not name.endswith((".json", ".pt2")))


@dataclass(slots=True)
class Workspace:
    """Where one stage works.

    Attributes:
        out: an empty folder; what the stage leaves here becomes the artefact.
        scratch: a folder that survives a kill, so that a stage can resume; gone when it is done.
        progress: called as `progress(done, total, note)`; cheap, may be called often.
        failures: message of every stage that failed so far, by name.
        describe: what the artefact is; the stage fills it in.
        shared: a folder for what all runs may use again and nobody needs; None where there is none.
    """

    out: Path
    scratch: Path
    progress: Callable[[int, int, str], None]
    failures: Mapping[str, str] = field(default_factory=dict)
    describe: Description = field(default_factory=lambda: Description())
    shared: Path | None = None


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
class Tap:
    """An intermediate feature of a model that a method asks for.

    Attributes:
        layer: a layer by the name that its model gives it; or `first`, `middle` or `last` of the
            model's own list of taps, its head left out.
        reduce: what of the feature is wanted: all of it; its mean over space or tokens `(N, C)`;
            or its mean square over the channels of a map `(N, H, W)`.
    """

    layer: str
    reduce: Literal["", "pooled", "attention"] = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a method asks of the loop for every batch.

    Attributes:
        labels: the ground truth.
        teacher: the teacher's logits.
        student_taps: features of the student, with gradient.
        teacher_taps: features of the teacher, detached.
        checkpoints: the weights that the teacher had on its way, kept by `teacher.checkpoints`.
    """

    labels: bool = True
    teacher: bool = True
    student_taps: tuple[Tap, ...] = ()
    teacher_taps: tuple[Tap, ...] = ()
    checkpoints: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """What a method's loss may see of one batch of `N` samples.

    Attributes:
        student: student logits `(N, C)`, fp32, with gradient.
        teacher: teacher logits `(N, C)`, fp32, detached; None unless the method needs them.
        targets: labels `(N,)`, int64.
        epoch: 0 for the first epoch.
        progress: share of the whole training that is done, from 0 to 1.
        index: row of each sample in the training split `(N,)`, int64.
        student_features: what was asked for by `Needs.student_taps`, fp32, with gradient.
        teacher_features: what was asked for by `Needs.teacher_taps`, fp32, detached.
        weights: weight of each sample in the distillation loss `(N,)`, detached; None is 1.
            The loss stays a sum over `N` samples divided by `N`, whatever the weights add up to.
    """

    student: Tensor
    teacher: Tensor | None
    targets: Tensor
    epoch: int
    progress: float
    index: Tensor
    student_features: Mapping[Tap, Tensor] = field(default_factory=dict)
    teacher_features: Mapping[Tap, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """A step of the training, before it is made.

    Attributes:
        epoch: 0 for the first.
        epochs: how many there will be.
        step: 0 for the first step of the epoch.
        steps: steps per epoch.
        history: one record per finished epoch: `loss` by parts, `validation_accuracy`,
            `validation_loss`.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    history: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The teacher after one epoch of its own training.

    Attributes:
        epoch: 1 for the first.
        accuracy: on the validation split, from 0 to 1.
        loss: cross-entropy on the validation split.
        kept: its weights of then are there.
    """

    epoch: int
    accuracy: float
    loss: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot as data: lines with markers over one x-axis.

    Attributes:
        title: what it shows.
        x: label of the x-axis.
        y: label of the y-axis.
        series: name of a line -> its x and y values.
        note: how to read it, one sentence.
    """

    title: str
    x: str
    y: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    note: str = ""


class Study(Protocol):
    """What a method may look at outside the step: both models over whole splits.

    Split names are `train`, `validation` (never `test`). Everything is on the CPU, fp32, detached,
    of the clean (not augmented) samples in their order, with the model in eval mode.

    Attributes:
        network: what is trained: the student, or what the method made of it by `adopt`.
        curve: the teacher's own training, epoch by epoch; empty for a teacher that was loaded.
        history: one record per finished epoch of this training.
        seed: of this training.
        rehearsal: nothing is trained, the teacher knows nothing and there are a few samples only:
            what is fitted to data now means nothing and must not be refused.
    """

    @property
    def network(self) -> nn.Module: ...

    @property
    def curve(self) -> Sequence[CurvePoint]: ...

    @property
    def history(self) -> Sequence[Mapping[str, Any]]: ...

    @property
    def seed(self) -> int: ...

    @property
    def rehearsal(self) -> bool: ...

    def targets(self, split: str) -> Tensor:
        """Labels `(N,)`, int64."""

    def student_logits(self, split: str) -> Tensor:
        """Logits `(N, C)` of the student as it is now."""

    def student_passes(self, split: str, count: int) -> Tensor:
        """Logits `(count, N, C)` of random augmented views (or clean ones, without augmentation).

        The views depend on the seed and the number of finished epochs alone.
        """

    def samples(self, index: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Clean inputs `(n, ...)` by name and labels `(n,)` of some training samples."""

    def teacher_logits(self, split: str) -> Tensor:
        """Logits `(N, C)` of the teacher."""

    def teacher_features(self, split: str, tap: Tap) -> Tensor:
        """A feature of the teacher, `(N, ...)`."""

    def student_shape(self, tap: Tap) -> tuple[int, ...]:
        """Shape of a student feature of one sample, without the batch axis."""

    def teacher_shape(self, tap: Tap) -> tuple[int, ...]:
        """Shape of a teacher feature of one sample, without the batch axis."""

    def layer(self, role: Literal["student", "teacher"], tap: Tap) -> str:
        """Name of the layer that a tap means, for messages: `stage2` for `middle`."""


class Method(ABC):
    """A distillation method: one paper, one file. Subclass it and write what differs.

    The class is read by `plan` and `list`, so its module must not import torch at module level;
    functions import it when they run.

    The loop calls, in this order: `adopt`, `helpers`, then per epoch `begin_epoch` and per step
    `checkpoint`, `adapt`, `loss`; at the end `figures` and `finish`. All of it must depend on its
    arguments and on what `helpers` found alone: a resumed training calls them again and must find
    the same. What a method remembers from epoch to epoch are buffers of its helpers, which are
    checkpointed.

    Methods compose (`distill: {method: kd, with: [paced]}`): of those under `with`,
    everything but `loss` is used, and `terms` beside it.

    Attributes:
        name: as in edge.yaml.
        summary: one line for `list methods`.
        citation: authors, title, year.
        Options: pydantic model of the method's own keys in the `distill` section.
        gives: what it changes for the others when it stands under `with`: `target` (the teacher's
            logits), `weights`, `checkpoint` (the teacher over time), `network` (a live teacher);
            empty if it cannot stand there. No two may give the same.
        takes: which of `target`, `weights`, `checkpoint` and `network` its loss lets others change.
        own_loss: options that only its own loss reads, so that they mean nothing under `with`.
        needs: what the loop must provide; set by `__init__` where options decide.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str]
    Options: ClassVar[type[BaseModel]]
    gives: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset()
    own_loss: ClassVar[frozenset[str]] = frozenset()
    needs: Needs

    def __init__(self, options: Any = None) -> None:
        """Take a parsed `Options`."""
        self.options = options

    def adopt(self, student: nn.Module) -> nn.Module:
        """What is trained in the student's place: `forward` gives the student's logits."""
        return student

    def helpers(self, study: Study) -> nn.Module | None:
        """Trainable helpers (projectors, ...) and buffers to remember: never exported.

        Raises:
            TrainingError: what the models offer does not fit (a feature's shape, no checkpoints).
        """
        return None

    def begin_epoch(self, study: Study, helpers: nn.Module | None) -> Mapping[str, float]:
        """Look at the student before an epoch; figures for the epoch's record in the history."""
        return {}

    def checkpoint(self, moment: Moment) -> int | None:
        """Epoch of the teacher's checkpoint that teaches this step; None is the final teacher."""
        return None

    def adapt(self, batch: Batch, helpers: nn.Module | None) -> Batch:
        """Change the target or the weights, for its own loss and for that of others."""
        return batch

    def terms(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        """Losses that are added when it stands under `with`."""
        return {}

    @abstractmethod
    def loss(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        """The loss by parts, fp32 scalars, of an adapted batch; the loop minimises their sum."""

    def figures(self, study: Study, helpers: nn.Module | None) -> Sequence[Figure]:
        """Diagnostics of the trained student, for the report."""
        return ()

    def finish(self, network: nn.Module) -> nn.Module:
        """The bare student: original keys, no hooks, no projectors. Only this is exported."""
        return network


class Exporter(Protocol):
    """Writes ONE format. Runs in a child process with only what it needs imported.

    Attributes:
        kind: the format, as in edge.yaml.
        precisions: what it can write.
        recipes: for a precision that has several ways, their names, in the order in which they are
            worth trying; the first is the one to take unseen.
        version: raised when the code changes what is written.
        libraries: distributions whose versions change what is written.
    """

    kind: ClassVar[str]
    precisions: ClassVar[tuple[Precision, ...]]
    recipes: ClassVar[Mapping[Precision, tuple[str, ...]]]
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
        self,
        source: Artifact,
        precision: Precision,
        samples: Arrays,
        folder: Path,
        recipe: str = ...,
    ) -> Signature:
        """Write the fp32 artefact `source` in another precision into `folder`.

        Args:
            source: an artefact of this exporter's kind, fp32.
            precision: one of `precisions`, not fp32.
            samples: calibration inputs by name, `(M, ...)`.
            folder: empty.
            recipe: one of `recipes`; means nothing where the precision has one way only.
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
