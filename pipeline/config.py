"""edge.yaml -> Config. The sections mirror the stages; every value has a sane default.

Keys that belong to a plugin (a model's `width`, a method's `temperature`, a data source's `path`)
stand in the same section as ours and are checked against the plugin's own options.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .contracts import Precision
from .models.foreign import FOREIGN, Layout

_UNITS = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_TIMES = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}


def _quantity(units: dict[str, float], example: str) -> BeforeValidator:
    def parse(value: object) -> float:
        match = re.fullmatch(
            r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?\d+)?)\s*([a-zA-Zµ]*)\s*", str(value)
        )
        unit = match.group(2).lower() if match else ""
        if match is None or (unit and unit not in units):
            raise ValueError(f"a number with a unit such as {example!r}")
        return float(match.group(1)) * units.get(unit, 1.0)

    return BeforeValidator(parse, json_schema_input_type=float | str)


Size = Annotated[float, _quantity(_UNITS, "200 kB"), Field(gt=0)]
Milliseconds = Annotated[float, _quantity(_TIMES, "5 ms"), Field(gt=0)]
Percent = Annotated[float, Field(gt=1, le=100)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class Section(BaseModel):
    """A section whose keys are all ours."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PluginSection(Section):
    """A section that also carries the options of the plugin it names."""

    model_config = ConfigDict(
        extra="allow", frozen=True, allow_inf_nan=False, serialize_by_alias=True
    )

    @property
    def options(self) -> dict[str, Any]:
        """The plugin's own keys, checked, with their defaults."""
        return dict(self.model_extra or {})


class Augment(Section):
    """Seeded, batched augmentation of training images; teacher and student see the same view."""

    shift: int = Field(0, ge=0, le=64, description="by up to this many pixels, the edge repeated")
    flip: bool = Field(False, description="mirror left-right with probability one half")


class DataSection(PluginSection):
    """Where the samples come from."""

    source: str = Field("mnist5k", description="a built-in source, or 'my_data.py:function'")
    augment: Augment = Augment()


class TrainingKeys(PluginSection):
    """What every training needs."""

    batch_size: int = Field(64, ge=1, description="samples per step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd has momentum 0.9")
    lr: float = Field(3e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["cosine", "constant"] = Field("cosine", description="of the learning rate")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with a rising rate")


class TeacherSection(TrainingKeys):
    """The good but big model: trained here, or loaded."""

    model: str = Field("resnet20", description="a built-in model, or 'my_model.py:build'")
    weights: Path | None = Field(None, description=".safetensors, or a .pt with a state dict")
    onnx: Path | None = Field(None, description="an ONNX file that gives logits")
    keras: Path | None = Field(None, description="a .keras file that gives logits")
    savedmodel: Path | None = Field(None, description="a SavedModel's folder; it gives logits")
    tflite: Path | None = Field(None, description="a .tflite file that gives logits")
    layout: Layout | None = Field(
        None,
        description="of the images that such a file takes; needed where their shape, such as"
        " (?, ?, ?, ?), leaves it open",
    )
    epochs: int = Field(8, ge=1)
    checkpoints: int = Field(0, ge=0, description="keep one every so many epochs; 0 keeps none")

    @property
    def foreign(self) -> tuple[str, Path] | None:
        """Key and file of a teacher that is no torch module."""
        files = ((key, getattr(self, key)) for key in FOREIGN)
        return next(((key, file) for key, file in files if file is not None), None)

    @property
    def loaded_by(self) -> str | None:
        """The key that names a finished teacher; None if it is trained here."""
        return self.foreign[0] if self.foreign else "weights" if self.weights else None


class StudentSection(PluginSection):
    """The small model."""

    model: str = Field("dscnn", description="a built-in model, or 'my_model.py:build'")


class Modifier(PluginSection):
    """A method that changes what another one looks at: a name, or a mapping with its options."""

    method: str = Field(description="a method that gives a target, weights, checkpoint or network")


def _as_modifier(value: object) -> object:
    return {"method": value} if isinstance(value, str) else value


class DistillSection(TrainingKeys):
    """How the student learns."""

    method: str = Field("kd", description="`edgedistill list methods` names them")
    also: tuple[Annotated[Modifier, BeforeValidator(_as_modifier)], ...] = Field(
        (), alias="with", description="methods that it is composed with, such as [paced]"
    )
    epochs: int = Field(10, ge=1)
    baseline: bool = Field(True, description="also train the student on labels alone, to compare")


class TrainSection(Section):
    """On what the training runs."""

    devices: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    seed: int = Field(0, ge=0)
    cache: Literal["views", "replay", "off"] = Field(
        "views",
        description="store the teacher's signals of every view, as they are asked for; or of a"
        " few views that are shown in turn, with their top logits; or ask it for every batch",
    )
    cache_limit: Size = Field(1e9, description="of the signals of one teacher, such as '4 GB'")
    cache_tolerance: float = Field(
        1e-3,
        gt=0,
        le=0.1,
        description="how far stored signals may be from torch in fp32, as a share of the largest"
        " value; 0.01 lets a CPU that has bf16 compute them in half the time",
    )
    replays: int = Field(8, ge=1, description="views per sample (cache: replay)")
    top: int = Field(16, ge=1, description="logits kept per view (cache: replay)")


class ExportSection(Section):
    """Which files are made."""

    formats: tuple[str, ...] = Field(("onnx", "openvino", "tflite"), min_length=1)
    precisions: tuple[Precision, ...] = Field(("fp32", "fp16", "int8"), min_length=1)
    timeout: float = Field(900, gt=0, description="seconds that one conversion may take")


class QuantizeSection(Section):
    """How int8 is looked for."""

    calibration: int = Field(256, ge=1, description="validation samples that calibrate int8")
    accuracy_drop: float = Field(
        1.0,
        ge=0,
        description="points below the fp32 student, on the validation split, that a recipe may"
        " lose; the first that holds is taken, else the most accurate",
    )
    recipes: tuple[str, ...] = Field(
        (), description="of static int8, tried in this order; empty tries all that a format has"
    )
    recover: Literal["none", "qad"] = Field(
        "none",
        description="where no recipe holds: fine-tune the student against the teacher with the"
        " rounding of int8 on (quantization-aware distillation), and quantize that",
    )
    epochs: int = Field(5, ge=1, description="of the recovery")


class Goals(Section):
    """Gates; a missed one exits 3. Against the teacher unless said otherwise."""

    accuracy_drop: float | None = Field(None, description="points below the teacher, at most")
    accuracy: Percent | None = Field(None, description="test accuracy in percent, at least")
    agreement: Percent | None = Field(None, description="same answer as the teacher, percent")
    speedup: float | None = Field(None, gt=0, description="times faster than the teacher")
    latency: Milliseconds | None = Field(None, description="median, such as '5 ms'")
    size: Size | None = Field(None, description="of the file, such as '200 kB'")


class EvaluateSection(Section):
    """Where and how it is measured, and what must hold."""

    targets: tuple[str, ...] = Field(("cpu",), min_length=1)
    goals: Goals = Goals()
    threads: int = Field(1, ge=1, description="worker threads of each runtime")
    seconds: float = Field(1.0, gt=0, description="measuring time per artefact")


class BundleSection(Section):
    """What is packed."""

    keep: Literal["best", "all"] = "best"


class Config(Section):
    """A whole edge.yaml."""

    name: Name = Field("edge", description="names the folder under runs/ and the bundle")
    data: DataSection = DataSection()
    teacher: TeacherSection = TeacherSection()
    student: StudentSection = StudentSection()
    distill: DistillSection = DistillSection()
    train: TrainSection = TrainSection()
    export: ExportSection = ExportSection()
    quantize: QuantizeSection = QuantizeSection()
    evaluate: EvaluateSection = EvaluateSection()
    bundle: BundleSection = BundleSection()
