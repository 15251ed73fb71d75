"""The command line. Imports click alone: what a command needs is imported in its body.

Results go to stdout (a path, or one JSON document with --json), progress and tables to stderr.
"""

from __future__ import annotations

import json as json_module
import shlex
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .errors import EdgeDistillError

    Command = Callable[..., Any]

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _file(name: str, **settings: Any) -> Callable[[Command], Command]:
    return click.argument(name, type=click.Path(path_type=Path), **settings)


def _json(command: Command) -> Command:
    text = "Print one JSON document to stdout."
    return click.option("--json", "as_json", is_flag=True, help=text)(command)


def _config(command: Command) -> Command:
    """CONFIG, --set and --runs, which every command on a config takes."""
    for add in (
        click.option(
            "--runs",
            type=click.Path(path_type=Path),
            default=Path("runs"),
            show_default=True,
            help="Folder of all runs and of the store they share.",
        ),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override a value, such as distill.epochs=2. May be repeated.",
        ),
        _file("config"),
    ):
        command = add(command)
    return command


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="edgedistill", prog_name="edgedistill")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks of errors.")
def cli(verbose: bool) -> None:
    """From a big teacher to a small, proven model on a device, with one command.

    \b
    Start:   edgedistill init my-project
             edgedistill run my-project/edge.yaml
    Check:   edgedistill verify runs/NAME/NAME.edge.zip

    Exit codes: 0 done, 1 a stage failed, 2 usage or config, 3 a goal was missed (everything is
    kept), 130 interrupted (the same command resumes).
    """


@cli.command()
@_config
@click.option("--until", metavar="STAGE", help="Stop after this stage (or family, like export).")
@click.option("--again", multiple=True, metavar="STAGE", help="Remake this stage. Repeatable.")
@_json
def run(
    config: Path,
    overrides: tuple[str, ...],
    runs: Path,
    until: str | None,
    again: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run the whole pipeline of CONFIG; what is already made is not made again.

    Leaves runs/NAME/ with NAME.edge.zip (the bundle), report.html, report.json and summary.md.

    \b
    edgedistill run edge.yaml
    edgedistill run edge.yaml --set distill.epochs=2 --until distill
    """
    from .commands import run_pipeline

    sys.exit(run_pipeline(config, overrides, runs, until, again, as_json))


@cli.command()
@_config
@_json
def plan(config: Path, overrides: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Show every stage of CONFIG: cached or to do, and why. Does no work."""
    from .commands import show_plan

    show_plan(config, overrides, runs, as_json)


@cli.command()
@_file("files", nargs=-1, required=True, metavar="FILE_OR_BUNDLE...")
@click.option("--target", "targets", multiple=True, default=("cpu",), show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="Measuring time per model.",
)
@_json
def benchmark(
    files: tuple[Path, ...], targets: tuple[str, ...], threads: int, seconds: float, as_json: bool
) -> None:
    """Measure model files (.onnx, .xml, .tflite, .pte) and bundles, interleaved."""
    from .commands import run_benchmark

    run_benchmark(files, targets, threads, seconds, as_json)


@cli.command()
@_config
@click.option(
    "--methods",
    required=True,
    metavar="A,B,...",
    callback=lambda context, option, value: _names(value),
    help="Methods to compare; none and kd are always among them.",
)
@click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, help="Students per method."
)
@_json
def compare(
    config: Path,
    overrides: tuple[str, ...],
    runs: Path,
    methods: list[str],
    seeds: int,
    as_json: bool,
) -> None:
    """Train the student of CONFIG by several methods and seeds, and tell which is better.

    All share data and teacher; what is trained already is not trained again, and the same command
    resumes. Leaves compare.html, .png and .json in runs/NAME/compare/.

    \b
    edgedistill compare edge.yaml --methods fitnets,paced --seeds 5
    """
    from .trials import compare_methods

    sys.exit(compare_methods(config, overrides, runs, methods, seeds, as_json))


def _names(text: str) -> list[str]:
    """Names between commas.

    Raises:
        BadParameter: there are none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("expected names of methods between commas, such as fitnets,paced")
    return names


@cli.command()
@click.argument("methods", nargs=-1, metavar="[METHOD]...")
@click.option(
    "--seeds", type=click.IntRange(1), help="Runs of every arm; default: as the experiment asks."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("reproduce"),
    show_default=True,
    help="Folder for METHOD.json, METHOD.png and METHOD.html.",
)
@_json
def reproduce(methods: tuple[str, ...], seeds: int | None, out: Path, as_json: bool) -> None:
    """Try the claims of the METHODs' papers here, small: all methods, unless some are named.

    A claim that does not hold here is a result, not an error.

    \b
    edgedistill reproduce kd --seeds 3
    """
    from .trials import reproduce_claims

    sys.exit(reproduce_claims(methods, seeds, out, as_json))


@cli.command("bundle")
@_file("run_folder", metavar="RUN")
@click.option(
    "--artifact",
    "names",
    multiple=True,
    metavar="NAME",
    help="Pack this artefact, such as onnx-int8; default: the selected one. Repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write it.")
def make_bundle(run_folder: Path, names: tuple[str, ...], out: Path | None) -> None:
    """Pack artefacts of a finished RUN (runs/NAME) into a bundle."""
    from .commands import pack_bundle

    click.echo(pack_bundle(run_folder, names, out))


@cli.command()
@_file("bundle")
@_json
def verify(bundle: Path, as_json: bool) -> None:
    """Prove a BUNDLE: every byte, and the golden answers on this machine's runtimes."""
    from .commands import verify_bundle

    verify_bundle(bundle, as_json)


@cli.command()
@_file("bundle")
@_file("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--artifact", help="Use this artefact instead of the bundle's default.")
@_json
def predict(bundle: Path, inputs: tuple[Path, ...], artifact: str | None, as_json: bool) -> None:
    """Answer raw INPUTs (.npy, .npz, images) with the model of a BUNDLE."""
    from .commands import predict_inputs

    predict_inputs(bundle, list(inputs), artifact, as_json)


@cli.command()
@_file("run_folder", metavar="RUN")
@_json
def report(run_folder: Path, as_json: bool) -> None:
    """Print the report of a finished RUN (runs/NAME) and where its HTML page is."""
    from .commands import show_report

    show_report(run_folder, as_json)


@cli.command("list")
@click.argument(
    "kinds", nargs=-1, type=click.Choice(["methods", "exporters", "targets", "models", "data"])
)
@_json
def list_plugins(kinds: tuple[str, ...], as_json: bool) -> None:
    """List what is installed: methods, exporters, targets, models, data sources."""
    from .commands import show_plugins

    show_plugins(kinds, as_json)


@cli.command()
@_json
def doctor(as_json: bool) -> None:
    """Show libraries with versions, CPU features, and what is missing with its pip line."""
    from .commands import show_doctor

    show_doctor(as_json)


@cli.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path), metavar="[DIR]")
def init(folder: Path) -> None:
    """Write a commented edge.yaml, and the JSON schema that editors complete it by, into DIR."""
    from .commands import write_example

    click.echo(write_example(folder))


def main() -> None:
    """Entry point of the `edgedistill` command."""
    from .errors import EdgeDistillError, Interrupted

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    verbose = bool({"-v", "--verbose"} & set(sys.argv[1:2]))
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        _fail(Interrupted("interrupted"), verbose)
    except KeyboardInterrupt:
        _fail(Interrupted("interrupted"), verbose)
    except click.ClickException as error:
        _print_json("UsageError", error.format_message())
        error.show()
        sys.exit(error.exit_code)
    except EdgeDistillError as error:
        _fail(error, verbose)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        _print_json(type(error).__name__, str(error))
        if verbose:
            traceback.print_exception(error)
        click.echo(f"error: unforeseen {type(error).__name__}: {error}", err=True)
        click.echo(f"  -> {'please report it' if verbose else command_line('-v')}", err=True)
        sys.exit(1)


def _fail(error: EdgeDistillError, verbose: bool) -> None:
    if verbose:
        traceback.print_exception(error)
    faults = [asdict(fault) for fault in getattr(error, "faults", ())]
    _print_json(type(error).__name__, error.message, error.hint, faults)
    click.echo(f"error: {error}", err=True)
    if error.exit_code != 2 and {"run", "compare"} & set(sys.argv[1:3]):
        click.echo(f"resume: {command_line()}", err=True)
    sys.exit(error.exit_code)


def _print_json(kind: str, message: str, hint: str = "", faults: Sequence[Any] = ()) -> None:
    """An error as the one JSON document of a command that was asked for one."""
    if "--json" in sys.argv:
        record = {"error": kind, "message": message, "hint": hint, "faults": list(faults)}
        click.echo(json_module.dumps(record))


def command_line(*options: str) -> str:
    """The command that was typed, with options put before its sub-command."""
    return shlex.join(["edgedistill", *options, *sys.argv[1:]])


if __name__ == "__main__":
    main()
