"""Puts the results of `edgedistill reproduce` into a Markdown document.

    python -m edgedistill.pipeline.experiments.document reproduce/*.json docs/methods.md

replaces what stands between `<!-- result: METHOD -->` and the next `<!-- end -->` by the tables and
checks of METHOD, with date, machine and command.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, EdgeDistillError
from ..options import nearest
from ..reporting import words
from ..store import write_atomic
from . import tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_START = re.compile(r"<!-- result: ([\w-]+) -->")
_END = "<!-- end -->"
_USAGE = "usage: python -m edgedistill.pipeline.experiments.document RESULT.json... DOCUMENT.md"


def markdown(record: Mapping[str, Any]) -> str:
    """Tables, checks, and how they came about, as Markdown."""
    parts = [_table(table) for table in record["tables"]]
    parts += ["\n".join(_check(check) for check in record["checks"])]
    return "\n\n".join([*filter(None, parts), _origin(record)])


def _table(table: Mapping[str, Any]) -> str:
    found = tables.grid(table)
    rule = ("---", *("---:" for _ in found.heads[1:]))
    lines = (found.heads, rule, *found.rows)
    rows = [f"| {' | '.join(map(_cell, line))} |" for line in lines]
    return "\n".join([f"**{tables.title(table)}**", "", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _check(check: Mapping[str, Any]) -> str:
    return f"- **{tables.verdict(check)}**: {check['statement']} ({check['got']})"


def _origin(record: Mapping[str, Any]) -> str:
    """One line: `2026-01-02, 3 seeds in 12 s, CPU, torch 2.13: edgedistill reproduce kd`."""
    versions = record["versions"]
    what = ", ".join(
        (
            record["date"][:10],
            f"{words.plural(record['seeds'], 'seed')} in {record['seconds']:.0f} s",
            str(record["machine"]["cpu"]),
            *(f"{name} {versions[name]}" for name in ("edgedistill", "torch") if name in versions),
        )
    )
    return f"*{what}:* `{record['command']}`"


def fill(text: str, records: Iterable[Mapping[str, Any]], where: str = "the document") -> str:
    """Replace the results of some methods in a document.

    Args:
        text: with marks `<!-- result: METHOD -->` and `<!-- end -->`.
        records: as in METHOD.json.
        where: the document, for messages.

    Raises:
        ConfigError: a method has no mark, or a mark has no end.
    """
    for record in records:
        name = record["method"]
        start = f"<!-- result: {name} -->"
        if start not in text:
            hint = nearest(name, _START.findall(text))
            raise ConfigError(f"{where} has no mark {start!r}", hint=hint)
        before, _, rest = text.partition(start)
        old, end, after = rest.partition(_END)
        if not end or _START.search(old):
            raise ConfigError(f"{where}: {start!r} has no {_END!r}", hint="write it below the mark")
        text = f"{before}{start}\n{markdown(record)}\n{end}{after}"
    return text


def main(arguments: Sequence[str]) -> int:
    """Entry point of `python -m`; returns the exit code."""
    if len(arguments) < 2 or not arguments[-1].endswith(".md"):
        print(_USAGE, file=sys.stderr)
        return 2
    document = Path(arguments[-1])
    try:
        records = [_read(Path(name)) for name in arguments[:-1]]
        text = fill(document.read_text("utf-8"), records, str(document))
        write_atomic(document, text.encode())
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except EdgeDistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        markdown(record)
    except (ValueError, KeyError, TypeError) as error:
        hint = "`edgedistill reproduce` writes such files"
        raise ConfigError(f"{path} is not the result of an experiment", hint=hint) from error
    return record


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
