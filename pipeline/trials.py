"""What `reproduce` and `compare` do, once click has read the arguments."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from . import console
from .cli import command_line
from .commands import click_echo, relative, verbose
from .threads import wait_gently

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .run import Event


def reproduce_claims(names: Sequence[str], seeds: int | None, out: Path, as_json: bool) -> int:
    """`edgedistill reproduce`; returns the exit code."""
    wait_gently()
    from .experiments import pages
    from .experiments.reproduce import find, prepare, reproduce

    experiments = find(names)
    prepare(out)
    records = []
    progress = console.Progress(len(experiments), verbose())
    results = reproduce(experiments, seeds, out, progress.show)
    while True:
        with progress:  # a bar for the work only: what follows is printed without it
            record = next(results, None)
        if record is None:
            break
        records.append(record)
        if not as_json:
            pages.show(record, relative(out / f"{record['method']}.html"))
    if as_json:
        click_echo(json.dumps(records, indent=1))
    return 0 if len(records) == len(experiments) else 1


def compare_methods(
    config_file: Path,
    overrides: Sequence[str],
    runs: Path,
    names: Sequence[str],
    seeds: int,
    as_json: bool,
) -> int:
    """`edgedistill compare`; returns the exit code."""
    wait_gently()
    from .compare import TRUNK, Seconds, make_tasks, prepare, record_of, run_tasks, write_pages
    from .configfile import load_config
    from .runs import RunFolder

    config = load_config(config_file, overrides)
    prepare(config)
    trunk, tasks = make_tasks(config, config_file.resolve().parent, names, seeds)
    folder = RunFolder(runs.resolve(), config.name)
    out = folder.path / "compare"
    with console.Progress(len(TRUNK) + len(tasks), verbose()) as progress:

        def listen(event: Event) -> None:
            folder.log(event)
            progress.show(event)

        seconds = Seconds(out / "seconds.json")
        answers, cells = run_tasks(trunk, tasks, folder.store, seconds, listen)
    record = record_of(config, cells, answers, command_line())
    write_pages(record, out)
    if as_json:
        click_echo(json.dumps(record, indent=1))
    else:
        _show_comparison(record, relative(out / "compare.html"))
    if failed := sum(cell.result is None for cell in cells):
        console.say(f"{failed} of {len(cells)} trainings failed\nresume: {command_line()}")
        return 1
    return 0


def _show_comparison(record: Mapping[str, Any], page: str) -> None:
    """Print the table, how to read it, and where the page is."""
    from .reporting import comparison

    found = comparison.grid(record, "+-")
    console.table(found.heads, found.rows)
    click_echo(f"\n{comparison.verdict(record)}")
    for note in comparison.notes(record):
        click_echo(f"- {note}")
    for name, reason in comparison.failures(record):
        click_echo(f"failed: {name}: {reason}")
    click_echo(page)
