"""What a converter's crash means to the person who reads it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..pipeline.errors import EdgeDistillError, ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Lines that say where inside a library, or where to read on, but not what went wrong.
_NOISE = re.compile(
    r"^(Check '|Exception from |Exception:?$|FrontEnd API failed|Model wasn't fully converted"
    r"|Summary:?$|Failed operations|For more |For C\+\+|Traceback|File \"|https?://|[-=~^ ]*$)"
)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what caused it, down to the first cause."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def deepest(error: BaseException) -> BaseException:
    """The first cause of a chain of errors."""
    return list(_chain(error))[-1]


def full_text(error: BaseException) -> str:
    """The messages of a whole chain of errors, the outermost first."""
    return "\n".join(str(link) for link in _chain(error))


def essence(error: BaseException) -> str:
    """The one line of a converter's message that says what went wrong.

    Args:
        error: what a library raised; some carry pages.

    Returns:
        The type of the error and the first line that is not about where in the library it was.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    telling = next((line for line in lines if line and not _NOISE.match(line)), "")
    name = type(error).__name__
    return f"{name}: {telling}" if telling else name


def unsupported(kind: str, operators: Iterable[str], place: str = "") -> ExportError:
    """The error for operators that a format lacks.

    Args:
        kind: the format.
        operators: their names, as the exporter gives them.
        place: `file:line` in the user's model, if known.
    """
    names = sorted(set(operators))
    what = f"operator {names[0]} is" if len(names) == 1 else f"operators {', '.join(names)} are"
    where = f", at {place}" if place else ""
    return ExportError(
        f"{kind}: {what} not supported by this format{where}",
        f"Replace it in the model by operators that {kind} has, or take {kind!r} out of "
        "export.formats.",
    )


@contextmanager
def explained(kind: str, action: str) -> Iterator[None]:
    """Turn whatever a library raises into an ExportError that names format and action.

    Args:
        kind: the format.
        action: what was being done, such as `quantize to int8`.

    Raises:
        ExportError: the original is chained to it.
    """
    try:
        yield
    except EdgeDistillError:
        raise
    except Exception as error:
        raise ExportError(
            f"{kind}: cannot {action}: {essence(error)}",
            f"The full message of the converter is in the log. If it stays unclear, take "
            f"{kind!r} out of export.formats to go on with the other formats.",
        ) from error
