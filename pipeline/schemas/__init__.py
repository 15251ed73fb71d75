"""JSON schemas that are shipped, and the generator of the one of edge.yaml.

`python -m edgedistill.pipeline.schemas` rewrites `edge.schema.json` after a change of the config
or of a built-in plugin's options.
"""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

CONFIG_SCHEMA = "edge.schema.json"
_REFERENCE = {"type": "string", "pattern": r"\.py:[A-Za-z_][A-Za-z0-9_]*$"}


def config_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of edge.yaml.

    Every section also knows the options of every built-in plugin that it may name, so that an
    editor completes them; keys of others are left to the program, which knows what is installed.
    """
    from ..config import Config
    from ..configfile import NAME_LISTS, PLUGIN_KEYS, USER_CODE

    schema = Config.model_json_schema()
    definitions = schema["$defs"]
    for section, (key, kind) in PLUGIN_KEYS.items():
        properties = _properties(schema, section)
        properties[key] |= _names(kind, kind in USER_CODE)
        del properties[key]["type"]
        options, needed = _options(kind)
        properties |= {k: v for k, v in options.items() if k not in properties}
        definitions |= {k: v for k, v in needed.items() if k not in definitions}
    for section, key, kind in NAME_LISTS:
        _properties(schema, section)[key]["items"] = _names(kind, user_code=False)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "edge.yaml of edgedistill",
    }


def as_text(schema: Mapping[str, Any]) -> str:
    """A schema as its file holds it."""
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _properties(schema: Mapping[str, Any], section: str) -> dict[str, Any]:
    reference = schema["properties"][section]
    name = (reference.get("$ref") or reference["allOf"][0]["$ref"]).rpartition("/")[2]
    properties: dict[str, Any] = schema["$defs"][name]["properties"]
    return properties


def _builtin(kind: str) -> dict[str, Any]:
    """Our own plugins of a kind, by name: the shipped schema must not vary with the environment."""
    package = __package__.partition(".")[0]
    entries = entry_points(group=f"edgedistill.{kind}")
    own = sorted((e for e in entries if e.dist and e.dist.name == package), key=lambda e: e.name)
    return {entry.name: entry for entry in own}


def _names(kind: str, user_code: bool) -> dict[str, Any]:
    """Completes the built-in names, and accepts those of other plugins."""
    others = [_REFERENCE, {"type": "string"}] if user_code else [{"type": "string"}]
    return {"anyOf": [{"enum": list(_builtin(kind))}, *others]}


def _options(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of all built-in plugins of a kind, merged by key, and the definitions they use."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    definitions: dict[str, Any] = {}
    for name, entry in _builtin(kind).items():
        options: type[BaseModel] = entry.load().Options
        schema = options.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions |= {f"{name}.{k}": v for k, v in schema.get("$defs", {}).items()}
        for key, value in schema.get("properties", {}).items():
            found.setdefault(key, {})[name] = value
    return {key: _merged(variants) for key, variants in found.items()}, definitions


def _merged(variants: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One property that accepts what any plugin accepts, and says which plugin has it."""
    types = list(_distinct(variants))
    by_text: dict[str, list[str]] = {}
    for name, value in variants.items():
        by_text.setdefault(value.get("description", "").rstrip("."), []).append(name)
    described = "; ".join(f"{', '.join(names)}: {text}" for text, names in by_text.items())
    shape = types[0] if len(types) == 1 else {"anyOf": types}
    return {**shape, "description": described}


def _distinct(variants: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen = []
    for value in variants.values():
        bare = {k: v for k, v in value.items() if k not in ("title", "description", "default")}
        if bare not in seen:
            seen.append(bare)
            yield bare
