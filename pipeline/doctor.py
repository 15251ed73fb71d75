"""What is installed and what this machine can do."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

from . import plugins

HIDDEN_EXTRAS = ("all", "dev")


def examine() -> dict[str, Any]:
    """Libraries with versions, missing extras with their pip line, and the machine."""
    libraries = [_library(name, extra) for name, extra in _requirements()]
    lacking = sorted({x["needed_for"] for x in libraries if x["version"] is None})
    return {
        "edgedistill": version("edgedistill"),
        "libraries": libraries,
        "machine": plugins.target("cpu").facts(),
        "pip": [
            "pip install edgedistill" if extra == "core" else f"pip install 'edgedistill[{extra}]'"
            for extra in lacking
        ],
    }


def _library(name: str, extra: str) -> dict[str, Any]:
    try:
        found: str | None = version(name)
    except PackageNotFoundError:
        found = None
    return {"library": name, "version": found, "needed_for": extra}


def _requirements() -> list[tuple[str, str]]:
    """Every distribution that our own metadata names, with the extra that asks for it."""
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    extras = [
        e for e in metadata("edgedistill").get_all("Provides-Extra") or [] if e not in HIDDEN_EXTRAS
    ]
    for line in requires("edgedistill") or []:
        requirement = Requirement(line)
        if requirement.marker is None:
            found.setdefault(requirement.name, "core")
            continue
        for extra in extras:
            if requirement.marker.evaluate({"extra": extra}) and requirement.name != "edgedistill":
                found.setdefault(requirement.name, extra)
    return sorted(found.items(), key=lambda item: (item[1] != "core", item[1], item[0]))


def installed_plugins(kind: str) -> list[dict[str, str]]:
    """Name, one line, and for a method its source, of every plugin of a kind."""
    rows = []
    for name in plugins.names(kind):
        plugin = plugins.load(kind, name)
        text = getattr(plugin, "summary", "") or (plugin.__doc__ or "").strip().splitlines()[0]
        rows.append({"name": name, "what": text, "source": getattr(plugin, "citation", "")})
    return rows
