"""Options of models and data sources: parsed by their pydantic model, with the nearest names."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic_core import ErrorDetails

    from .errors import EdgeDistillError

OptionsT = TypeVar("OptionsT", bound=BaseModel)


def nearest(name: str, known: Iterable[str]) -> str:
    """One sentence that leads from a wrong name to the right one.

    Args:
        name: what was written.
        known: what would have been accepted.

    Returns:
        `did you mean 'width'? Known: depth, width`.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2)
    question = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{question}Known: {', '.join(names) or 'nothing'}"


def parse_options(
    model: type[OptionsT], values: Mapping[str, Any], owner: str, error: type[EdgeDistillError]
) -> OptionsT:
    """Check `values` against a pydantic model and fill in its defaults.

    Args:
        model: what the options must look like.
        values: the options as written.
        owner: whose options they are, for the message, such as `model 'dscnn'`.
        error: the class to raise.

    Raises:
        EdgeDistillError: of class `error`, with every fault at once.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as exc:
        details = exc.errors()
        faults = "; ".join(_fault(detail) for detail in details)
        unknown = [str(d["loc"][-1]) for d in details if d["type"] == "extra_forbidden"]
        known = list(model.model_fields)
        hint = nearest(unknown[0], known) if unknown else f"Options: {', '.join(known)}"
        raise error(f"{owner} has wrong options: {faults}", hint) from exc


def _fault(detail: ErrorDetails) -> str:
    key = ".".join(map(str, detail["loc"])) or "(all)"
    return f"{key} = {detail['input']!r}: {detail['msg']}"
