"""Config -> stages. THE PAGE TO READ: no work is done here.

    data -> teacher -> distill -> export-FORMAT -> quantize-FORMAT-PRECISION -+
       \\-> baseline      \\-> export-teacher                                  |
                                            evaluate-TARGET <-----------------+
                                                   |
                                                select -> bundle, report

With `quantize.recover`, `recover` and `recover-FORMAT-int8` stand behind `quantize`. A stage of the
middle row that fails takes only its own format with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from . import plugins
from .contracts import Stage
from .errors import ConfigError, MissingDependency
from .models.foreign import FOREIGN
from .options import nearest
from .stages import (
    bundle,
    data,
    distill,
    evaluate,
    export,
    quantize,
    recover,
    report,
    select,
    teacher,
)
from .stages.distill import MethodSpec
from .stages.foreign import convert, take_over
from .stages.keys import file_digests
from .stages.modelfiles import model_settings
from .stages.quantize import Search
from .stages.training import LIBRARIES as TRAINING
from .stages.training import replays, seed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from .config import Config, TrainingKeys
    from .contracts import Exporter, Missing, Precision
    from .models.foreign import ForeignKind


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages of a config, each after what it needs.

    Attributes:
        config: what was asked.
        stages: in an order in which they can run.
        missing: libraries that some stage needs and the environment lacks.
    """

    config: Config
    stages: tuple[Stage, ...]
    missing: tuple[Missing, ...] = ()

    def until(self, name: str) -> Plan:
        """The part of the plan that leads to a stage, or to every stage `NAME-...`.

        Raises:
            ConfigError: there is no such stage.
        """
        wanted = set(self.matching(name))
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted |= {*stage.needs, *stage.optional}
        return replace(self, stages=tuple(s for s in self.stages if s.name in wanted))

    def matching(self, name: str) -> list[str]:
        """Names of the stage, or of the family of stages (`export`), that is meant.

        Raises:
            ConfigError: there is none.
        """
        names = [stage.name for stage in self.stages]
        found = [n for n in names if n == name or n.startswith(f"{name}-")]
        if not found:
            raise ConfigError(f"there is no stage {name!r}", hint=nearest(name, names))
        return found


def make_plan(config: Config, root: Path) -> Plan:
    """Lay out the stages of a config.

    Args:
        config: checked.
        root: folder of the config; user code and files are relative to it.

    Raises:
        ConfigError: a format cannot be written in a precision, or there is no such device.
    """
    _check_device(config)
    _check_checkpoints(config)
    exporters = {kind: plugins.exporter(kind) for kind in config.export.formats}
    _check_precisions(config, exporters)
    _check_recipes(config, exporters)
    training = (_data(config, root), *_training(config, root))
    exports = tuple(_exports(config, root, exporters))
    names = tuple(stage.name for stage in exports)
    evaluations = tuple(_evaluations(config, names))
    results = _results(config, names, evaluations)
    stages = (*training, *exports, *evaluations, *results)
    return Plan(config, stages, tuple(_missing(config, exporters)))


def _check_device(config: Config) -> None:
    if config.train.devices == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(
                "train.devices = cuda: no CUDA GPU, or no CUDA build of torch, is here",
                hint="use auto or cpu; `edgedistill doctor` shows the torch build",
            )


def _check_checkpoints(config: Config) -> None:
    """See that a method that goes by the teacher's own training will find it."""
    if not MethodSpec.of(config).build().needs.checkpoints:
        return
    loaded = config.teacher.loaded_by
    if loaded is not None:
        raise ConfigError(
            f"distill.method = {config.distill.method!r} follows the teacher's own training, and"
            f" teacher.{loaded} is loaded: how it came about is not known",
            hint=f"train the teacher here (remove teacher.{loaded}), or take another method",
        )
    if not config.teacher.checkpoints:
        raise ConfigError(
            f"distill.method = {config.distill.method!r} needs checkpoints of the teacher's"
            " training, and teacher.checkpoints = 0 keeps none",
            hint="set teacher.checkpoints: 1, which keeps one per epoch",
        )


def _check_precisions(config: Config, exporters: dict[str, Exporter]) -> None:
    for kind, exporter in exporters.items():
        for precision in config.export.precisions:
            if precision not in exporter.precisions:
                can = ", ".join(exporter.precisions)
                raise ConfigError(f"{kind} cannot be written as {precision}", hint=f"it can: {can}")


def _check_recipes(config: Config, exporters: dict[str, Exporter]) -> None:
    known = {name for e in exporters.values() for name in e.recipes.get("int8", ())}
    known.add(quantize.EQUALISED)
    for name in config.quantize.recipes:
        if name not in known:
            raise ConfigError(
                f"quantize.recipes = {name!r}: none of the formats has it",
                hint=nearest(name, sorted(known)),
            )


def _missing(config: Config, exporters: dict[str, Exporter]) -> Iterable[Missing]:
    found = [exporter.missing() for exporter in exporters.values()]
    targets = [plugins.target(name) for name in config.evaluate.targets]
    measured = set(exporters)
    if config.teacher.foreign is not None:
        teacher_kind = FOREIGN[config.teacher.foreign[0]]
        found.append(teacher_kind.missing())
        measured.add(teacher_kind.format)
    found += [t.missing(kind) for t in targets for kind in sorted(measured) if t.accepts(kind)]
    if ":" not in config.data.source:
        found.append(plugins.load("data", config.data.source)().missing())
    found.append(report.missing())
    return (missing for missing in found if missing is not None)


def require(missing: Collection[Missing]) -> None:
    """Stop before any work if a library is missing; one pip line brings them all.

    Raises:
        MissingDependency: something is missing.
    """
    if missing:
        libraries = ", ".join(sorted({lib for m in missing for lib in m.libraries}))
        extras = ",".join(sorted({m.extra for m in missing}))
        hint = f"pip install 'edgedistill[{extras}]'"
        raise MissingDependency(f"not installed: {libraries}", hint)


def _data(config: Config, root: Path) -> Stage:
    from .data.load import data_files, find_source

    source, options = config.data.source, config.data.options
    files = data_files({"source": source, "options": options}, root)
    settings = {"source": source, "options": options, "files": file_digests(files, root)}
    libraries = () if ":" in source else find_source(source).libraries
    run = partial(data.run, source, options, root)
    return Stage("data", (), settings, 1, run, libraries=libraries)


def _training(config: Config, root: Path) -> Iterable[Stage]:
    section = config.teacher
    settings = {
        "model": model_settings(section.model, section.options, root),
        **_loop_settings(section, config),
        "checkpoints": section.checkpoints,
    }
    if section.weights is not None:
        settings = {
            "model": settings["model"],
            "weights": file_digests([root / section.weights], root),
        }
    libraries: tuple[str, ...] = TRAINING
    if section.foreign is not None:
        key, file = section.foreign
        content = FOREIGN[key].content(root.resolve() / file)
        settings = {key: file_digests(content, root), "layout": section.layout}
        libraries = (*TRAINING, *FOREIGN[key].distributions)
    run = partial(teacher.run, config, root)
    yield Stage("teacher", ("data",), settings, 1, run, libraries=libraries)
    if has_baseline(config):
        yield student_stage("baseline", MethodSpec("none"), config, root)
    yield student_stage("distill", MethodSpec.of(config), config, root)


def has_baseline(config: Config) -> bool:
    """Whether the student is also trained on labels alone."""
    return config.distill.baseline and config.distill.method != "none"


def student_stage(name: str, spec: MethodSpec, config: Config, root: Path) -> Stage:
    """The training of the config's student by a method."""
    settings = {
        **spec.settings(),
        "student": model_settings(config.student.model, config.student.options, root),
        **_loop_settings(config.distill, config),
    }
    run = partial(distill.run, spec, config, root)
    if not distill.uses_teacher(spec.build()):
        return Stage(name, ("data",), settings, 2, run, libraries=TRAINING)
    settings["signals"] = _signal_settings(config)
    return Stage(name, ("data", "teacher"), settings, 3, run, libraries=TRAINING)


def _loop_settings(section: TrainingKeys, config: Config) -> dict[str, Any]:
    own = ("batch_size", "optimizer", "lr", "weight_decay", "schedule", "warmup", "epochs")
    return {
        **{key: getattr(section, key) for key in own},
        "train": _train_settings(section, config),
        "augment": config.data.augment.model_dump(mode="json"),
    }


def _train_settings(section: TrainingKeys, config: Config) -> dict[str, Any]:
    """What of `train` decides any training."""
    return {
        "devices": config.train.devices,
        "precision": config.train.precision,
        "seed": seed(section, config),
        "replays": replays(section, config),
    }


def _signal_settings(config: Config) -> dict[str, Any]:
    """What of `train` decides how a teacher is heard; how large a cache may get does not."""
    train = config.train
    return {"cache": train.cache, "tolerance": train.cache_tolerance, "top": train.top}


def _exports(config: Config, root: Path, exporters: dict[str, Exporter]) -> Iterable[Stage]:
    timeout = config.export.timeout
    first, first_exporter = next(iter(exporters.items()))
    if config.teacher.foreign is not None:
        yield _foreign_export(FOREIGN[config.teacher.foreign[0]], timeout)
    else:
        yield _export("export-teacher", first, first_exporter, "teacher", timeout, root)
    for kind, exporter in exporters.items():
        yield _export(f"export-{kind}", kind, exporter, "distill", timeout, root)
        for precision in config.export.precisions:
            if precision != "fp32":
                yield _quantize(kind, exporter, precision, config, root)
    if config.quantize.recover == "qad" and recover.PRECISION in config.export.precisions:
        yield _recover(config, root, list(exporters))
        for kind, exporter in exporters.items():
            yield _requantize(kind, exporter, config, root)


def _recover(config: Config, root: Path, kinds: list[str]) -> Stage:
    """Fine-tunes the student if the int8 of a format lost too much."""
    settings = {
        "student": model_settings(config.student.model, config.student.options, root),
        **_loop_settings(config.distill, config),
        "signals": _signal_settings(config),
        "epochs": config.quantize.epochs,
        "share": recover.FINE,
    }
    return Stage(
        "recover",
        ("data", "teacher", "distill"),
        settings,
        1,
        partial(recover.run, config, root),
        optional=(
            *(f"export-{kind}" for kind in kinds),
            *(f"quantize-{kind}-{recover.PRECISION}" for kind in kinds),
        ),
        libraries=TRAINING,
    )


def _requantize(kind: str, exporter: Exporter, config: Config, root: Path) -> Stage:
    search = _search(exporter, recover.PRECISION, config, equalise=False)
    return Stage(
        f"recover-{kind}-{recover.PRECISION}",
        ("data", "distill", f"export-{kind}", "recover"),
        {"kind": kind, "exporter": exporter.version, **asdict(search)},
        1,
        partial(recover.requantize, kind, search, config.export.timeout, root),
        optional=(f"quantize-{kind}-{recover.PRECISION}",),
        libraries=exporter.libraries,
        alone=False,
    )


def _search(
    exporter: Exporter, precision: Precision, config: Config, equalise: bool = True
) -> Search:
    """The recipes to try: what the config names, or all, equalisation second."""
    section, known = config.quantize, exporter.recipes.get(precision, ())
    if known and equalise:
        known = (known[0], quantize.EQUALISED, *known[1:])
    wanted = tuple(name for name in section.recipes if name in known) or known or ("",)
    return Search(wanted, section.accuracy_drop, section.calibration)


def _quantize(
    kind: str, exporter: Exporter, precision: Precision, config: Config, root: Path
) -> Stage:
    search = _search(exporter, precision, config)
    final = config.quantize.recover == "none" or precision != recover.PRECISION
    return Stage(
        f"quantize-{kind}-{precision}",
        ("data", "distill", f"export-{kind}"),
        {
            "kind": kind,
            "precision": precision,
            "exporter": exporter.version,
            **({**asdict(search), "final": final} if precision == recover.PRECISION else {}),
        },
        2,
        partial(quantize.run, kind, precision, search, config.export.timeout, root, final),
        libraries=exporter.libraries,
        alone=False,
    )


def _foreign_export(kind: ForeignKind, timeout: float) -> Stage:
    """The teacher's file as it is measured: itself, or what it is converted to."""
    run = partial(convert, timeout) if kind.converted else take_over
    return Stage(
        "export-teacher",
        ("data", "teacher"),
        {"kind": kind.format},
        1,
        run,
        libraries=kind.distributions if kind.converted else (),
        alone=not kind.converted,
    )


def _export(
    name: str, kind: str, exporter: Exporter, source: str, timeout: float, root: Path
) -> Stage:
    return Stage(
        name,
        ("data", source),
        {"kind": kind, "exporter": exporter.version},
        1,
        partial(export.export, kind, source, root, timeout),
        libraries=("torch", *exporter.libraries),
        alone=False,
    )


def _evaluations(config: Config, exports: tuple[str, ...]) -> Iterable[Stage]:
    section, reported = config.evaluate, config.export.precisions
    for name in section.targets:
        machine = plugins.target(name).facts()
        settings = {
            "target": name,
            "threads": section.threads,
            "seconds": section.seconds,
            "precisions": list(reported),
            "machine": {key: machine[key] for key in ("cpu", "isa_features", "cores")},
        }
        run = partial(evaluate.run, name, section.threads, section.seconds, reported)
        yield Stage(
            f"evaluate-{name}",
            ("data",),
            settings,
            1,
            run,
            optional=exports,
            libraries=("onnxruntime", "openvino", "ai-edge-litert"),
        )


def _results(
    config: Config, exports: tuple[str, ...], evaluations: tuple[Stage, ...]
) -> Iterable[Stage]:
    reported = config.export.precisions
    goals = config.evaluate.goals.model_dump(mode="json")
    models = ("data", "teacher", "distill")
    measured = tuple(stage.name for stage in evaluations)
    baseline = ("baseline",) if has_baseline(config) else ()
    yield Stage(
        "select",
        (*models, *measured),
        {"name": config.name, "goals": goals, "precisions": list(reported)},
        2,
        partial(select.run, config.name, goals, reported),
        optional=(*baseline, *exports),
    )
    plain = config.model_dump(mode="json")
    yield Stage(
        "bundle",
        (*models, "select", *measured),
        {"config": plain, "keep": config.bundle.keep},
        1,
        partial(bundle.run, plain, config.bundle.keep, reported),
        optional=exports,
    )
    yield Stage(
        "report",
        ("select", *measured),
        {"name": config.name, "exports": list(exports)},
        2,
        report.run,
        optional=exports,
        libraries=("matplotlib", "jinja2", *report.LIBRARIES),
        tells_failures=True,
    )
