"""What the commands do, once click has read the arguments."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from importlib.resources import files as package_files
from typing import TYPE_CHECKING, Any

from . import console
from .cli import command_line
from .errors import BundleError, ConfigError, GoalMissed, MissingDependency
from .threads import wait_gently

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from .bundle import Bundle
    from .contracts import Missing
    from .plan import Plan
    from .run import Outcome
    from .runs import RunFolder


def run_pipeline(
    config_file: Path,
    overrides: Sequence[str],
    runs: Path,
    until: str | None,
    again: Sequence[str],
    as_json: bool,
) -> int:
    """`edgedistill run`; returns the exit code."""
    wait_gently()
    from .plan import require
    from .run import run_plan
    from .runs import RunFolder

    plan = _plan(config_file, overrides)
    folder = RunFolder(runs.resolve(), plan.config.name)
    remade = {stage for name in again for stage in plan.matching(name)}
    plan = plan.until(until) if until else plan
    require(_needed(plan))
    with console.Progress(len(plan.stages), verbose()) as progress:

        def listen(event: Any) -> None:
            folder.log(event)
            progress.show(event)

        outcome = run_plan(plan, folder.store, listen, remade)
    folder.publish(outcome)
    return _conclude(folder, plan, outcome, as_json)


def _needed(plan: Plan) -> list[Missing]:
    """What is missing for the stages of a plan, which may have been cut short."""
    families = {stage.name.partition("-")[0] for stage in plan.stages}
    idle = set() if "report" in families else {"report"}
    if not families & {"export", "quantize", "evaluate"}:
        idle |= set(plan.config.export.formats)
    return [missing for missing in plan.missing if missing.extra not in idle]


def verbose() -> bool:
    """Whether the command line asked for tracebacks."""
    import click

    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().params.get("verbose"))


def _plan(config_file: Path, overrides: Sequence[str]) -> Plan:
    from .configfile import load_config
    from .plan import make_plan

    return make_plan(load_config(config_file, overrides), config_file.resolve().parent)


def _conclude(folder: RunFolder, plan: Plan, outcome: Outcome, as_json: bool) -> int:
    """Print what a run gave; the exit code says how it ended."""
    report = _read_report(folder) if "report" in outcome.artifacts else None
    if report is not None:
        console.print_report(report)
    if as_json:
        failures = [{"stage": k, "message": str(v)} for k, v in outcome.failures.items()]
        click_echo(json.dumps(report or {"name": folder.name, "failures": failures}, indent=1))
    elif "bundle" in outcome.artifacts:
        click_echo(relative(folder.path / f"{folder.name}.edge.zip"))
    elif outcome.artifacts and not outcome.failures:
        last = plan.stages[-1].name
        click_echo(relative(folder.path / "stages" / last))
    if outcome.failures:
        console.say(f"{len(outcome.failures)} stage(s) failed: {', '.join(outcome.failures)}")
        console.say(f"resume: {command_line()}")
        return 1
    if report is not None and not report["passed"]:
        missed = ", ".join(g["name"] for g in report["goals"] if not g["met"])
        console.say(f"goals missed: {missed or 'no artefact'}; everything was kept")
        return GoalMissed.exit_code
    return 0


def click_echo(text: str) -> None:
    """A result, to stdout."""
    import click

    click.echo(text)


def relative(path: Path) -> str:
    """A path as seen from here, where it lies below."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _read_report(folder: RunFolder) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder.path / "report.json").read_text())
    return report


def show_plan(config_file: Path, overrides: Sequence[str], runs: Path, as_json: bool) -> None:
    """`edgedistill plan`."""
    from dataclasses import asdict

    from .forecast import forecast
    from .runs import RunFolder

    plan = _plan(config_file, overrides)
    folder = RunFolder(runs.resolve(), plan.config.name)
    lines = forecast(plan, folder.store, folder.recipes())
    if as_json:
        click_echo(json.dumps([asdict(line) for line in lines], indent=1))
    else:
        console.table(("stage", "state", "why"), [(x.stage, x.state, x.why) for x in lines])
    for missing in dict.fromkeys(plan.missing):
        console.say(f"not installed: {', '.join(missing.libraries)}: {missing.pip_line}")


def run_benchmark(
    files: Sequence[Path], targets: Sequence[str], threads: int, seconds: float, as_json: bool
) -> None:
    """`edgedistill benchmark`."""
    from .benchmark import benchmark
    from .run import Event

    with console.Progress(1) as progress:

        def tell(done: int, total: int, note: str) -> None:
            progress.show(Event("progress", "benchmark", note, done, total))

        records = benchmark(files, targets, threads, seconds, tell)
    if as_json:
        click_echo(json.dumps(records, indent=1))
    else:
        console.print_benchmark(records)


def pack_bundle(run_folder: Path, names: Sequence[str], out: Path | None) -> Path:
    """`edgedistill bundle`."""
    from .bundle import pack
    from .runs import RunFolder
    from .stages.bundle import collect
    from .stages.evaluate import TEACHER, candidates
    from .store import write_atomic

    folder = RunFolder.find(run_folder)
    inputs, recipe = folder.artifacts(), folder.recipes().get("bundle", {"needs": {}})
    made = {stage: artifact.digest for stage, artifact in inputs.items()}
    stale = [stage for stage, digest in recipe["needs"].items() if made.get(stage) != digest]
    if stale or not recipe["needs"]:
        what = f"its {', '.join(stale)} changed since" if stale else "it has no bundle yet"
        raise BundleError(f"{run_folder} was not run to its end: {what}", "run it to the end first")
    config = recipe["settings"]["config"]
    reported = tuple(config["export"]["precisions"])
    # Older artefacts, of formats that the config named once, are no part of this run.
    needed = {name: artifact for name, artifact in inputs.items() if name in recipe["needs"]}
    there = candidates(needed, reported).keys() - {TEACHER}
    chosen = list(dict.fromkeys(names)) or [
        json.loads((inputs["select"].root / "verdict.json").read_text())["selected"]
    ]
    for name in chosen:
        if name not in there:
            hint = f"it has: {', '.join(sorted(there))}"
            raise BundleError(f"{run_folder} has no artefact {name!r}", hint)
    path = out or folder.path
    if path.is_dir():
        path = path / f"{folder.name}.{'-'.join(chosen)}.edge.zip"
    write_atomic(path, pack(collect(config, chosen, reported, needed)))
    return path


def verify_bundle(path: Path, as_json: bool) -> None:
    """`edgedistill verify`.

    Raises:
        MissingDependency: no artefact could be run here, so nothing was proved.
    """
    from . import proof
    from .bundle import open_bundle

    bundle = open_bundle(path)
    records = proof.verify(bundle)
    ran = [record["ran"] for record in records]
    if not as_json:
        _tell_proof(bundle, records)
    if not any(ran):
        reasons = "; ".join(f"{record['name']}: {record['why']}" for record in records)
        lines = dict.fromkeys(record["pip"] for record in records)
        raise MissingDependency(
            f"{path}: every byte is as packed, but no artefact was run ({reasons})",
            " && ".join(lines),
        )
    if as_json:
        passed = bundle.manifest["passed"]
        record = {"bundle": str(path), "sound": True, "proved": all(ran), "meets_goals": passed}
        click_echo(json.dumps({**record, "artifacts": records}, indent=1))


def _tell_proof(bundle: Bundle, records: Iterable[dict[str, Any]]) -> None:
    click_echo(f"{bundle.path}: {len(bundle.files)} files, every byte as packed")
    for record in records:
        if record["ran"]:
            click_echo(
                f"{record['name']}: golden outputs repeated (relative difference"
                f" {record['difference']:.2g}, allowed {record['tolerance']:g})"
            )
        else:
            click_echo(f"{record['name']}: not run, {record['why']}: {record['pip']}")
    if not bundle.manifest["passed"]:
        click_echo("note: this artefact MISSED a goal of its run; see manifest.json")


def predict_inputs(path: Path, inputs: list[Path], artifact: str | None, as_json: bool) -> None:
    """`edgedistill predict`."""
    from . import proof
    from .bundle import open_bundle

    answers = proof.predict(open_bundle(path), inputs, artifact)
    if as_json:
        click_echo(json.dumps(answers, indent=1))
        return
    for answer in answers:
        click_echo(f"{answer['file']}: {answer['label']} ({answer['probability']:.1%})")


def show_report(run_folder: Path, as_json: bool) -> None:
    """`edgedistill report`."""
    from .runs import RunFolder

    folder = RunFolder.find(run_folder)
    if not (folder.path / "report.json").is_file():
        raise ConfigError(f"{run_folder} has no report", hint="run it to the end first")
    report = _read_report(folder)
    if as_json:
        click_echo(json.dumps(report, indent=1))
        return
    console.print_report(report)
    click_echo(relative(folder.path / "report.html"))


def show_plugins(kinds: Iterable[str], as_json: bool) -> None:
    """`edgedistill list`."""
    from .doctor import installed_plugins
    from .plugins import LISTED

    found = {kind: installed_plugins(kind) for kind in (tuple(kinds) or LISTED)}
    if as_json:
        click_echo(json.dumps(found, indent=1))
        return
    for kind, rows in found.items():
        heads = ("name", "what", "source") if kind == "methods" else ("name", "what")
        console.table((kind, *heads[1:]), [tuple(r.get(h, "") for h in heads) for r in rows])


def show_doctor(as_json: bool) -> None:
    """`edgedistill doctor`."""
    from .doctor import examine

    facts = examine()
    if as_json:
        click_echo(json.dumps(facts, indent=1))
        return
    rows = [(x["library"], x["version"] or "missing", x["needed_for"]) for x in facts["libraries"]]
    console.table(("library", "version", "needed for"), rows)
    console.table(("machine", ""), [(k, _words(v)) for k, v in facts["machine"].items()])
    for line in facts["pip"]:
        click_echo(f"to install what is missing: {line}")
    if not facts["pip"]:
        click_echo("everything is installed")


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def write_example(folder: Path) -> Path:
    """`edgedistill init`."""
    from .store import write_atomic

    target = folder / "edge.yaml"
    if target.exists():
        raise ConfigError(f"{target} exists already", hint="name another folder: init DIR")
    package = package_files(__package__)
    name = re.sub(r"[^A-Za-z0-9]+", "-", folder.resolve().name)[:64].strip("-") or "edge"
    text = (package / "templates" / "edge.yaml").read_text(encoding="utf-8")
    schema = (package / "schemas" / "edge.schema.json").read_bytes()
    write_atomic(folder / "edge.schema.json", schema)
    write_atomic(target, text.replace("NAME", name).encode())
    print("next:", shlex.join(["edgedistill", "run", relative(target)]), file=sys.stderr)
    return target
