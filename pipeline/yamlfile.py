"""YAML with line numbers: a plain document, and where each key of it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from .errors import ConfigError, Fault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KeyPath = tuple[str | int, ...]
_TAGS = "tag:yaml.org,2002:"


@dataclass(slots=True)
class Document:
    """A YAML document.

    Attributes:
        data: plain dicts, lists and scalars.
        places: path of a key -> `file:line` or the `--set` argument that gave the value.
        file: the name that messages use.
    """

    data: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)
    file: str = ""

    def place(self, path: KeyPath) -> str:
        """Where a key stands; for a missing key, where its nearest parent stands."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, f"{self.file}:1")

    def get(self, path: KeyPath) -> Any:
        """The value at a path, or None where there is none."""
        node: Any = self.data
        for key in path:
            if isinstance(node, dict):
                node = node.get(key)
            elif isinstance(node, list) and isinstance(key, int):
                node = node[key]
            else:
                return None
        return node

    def fill(self, path: KeyPath, values: Mapping[str, Any]) -> None:
        """Write values into the mapping at a path; makes the last mapping if it is not there."""
        *parents, last = path
        node: Any = self.data
        for key in parents:
            node = node[key]
        if isinstance(last, str):
            node.setdefault(last, {})
        node[last].update(values)


def read(path: Path) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file is missing, is no YAML, has a key twice, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or f"it is no UTF-8 text ({error})"
        raise ConfigError(
            f"cannot read the config {str(path)!r}: {why}",
            hint="`edgedistill init` writes one to start from",
        ) from error
    return parse(text, path.name)


def parse(text: str, file: str) -> Document:
    """As `read`, from a string."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}: not valid YAML: {problem}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{file}: expected a mapping with sections such as `data:`, `teacher:`")
    document = Document({}, file=file)
    faults: list[Fault] = []
    try:
        document.data = _plain(root, (), document, faults)
    except RecursionError as error:
        raise ConfigError(f"{file}: an anchor holds itself") from error
    if faults:
        raise ConfigError(f"{file} has {len(faults)} fault(s):", faults)
    return document


def _plain(node: yaml.Node, path: KeyPath, document: Document, faults: list[Fault]) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAGS}map":
        return _mapping(node, path, document, faults)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAGS}seq":
        items = []
        for index, child in enumerate(node.value):
            document.places[(*path, index)] = _where(child, document)
            items.append(_plain(child, (*path, index), document, faults))
        return items
    try:
        return _scalar(node)
    except (yaml.YAMLError, ValueError) as error:
        dotted, told = ".".join(map(str, path)), getattr(error, "problem", None) or str(error)
        value = node.tag if isinstance(node, yaml.CollectionNode) else f"{node.tag} {node.value!r}"
        faults.append(Fault(dotted, _where(node, document), value, "a plain value", told))
        return None


def _mapping(
    node: yaml.MappingNode, path: KeyPath, document: Document, faults: list[Fault]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(_scalar(key_node))
        here = (*path, key)
        where = _where(key_node, document)
        if key in result:
            dotted = ".".join(map(str, here))
            faults.append(Fault(dotted, where, "given twice", "each key once"))
        document.places[here] = where
        result[key] = _plain(value_node, here, document, faults)
    return result


def _where(node: yaml.Node, document: Document) -> str:
    return f"{document.file}:{node.start_mark.line + 1}"


def _scalar(node: yaml.Node) -> Any:
    """The value of a node; a tag that asks for more than plain data is refused by the loader."""
    return yaml.SafeLoader("").construct_object(node)


def override(document: Document, argument: str) -> None:
    """Apply one `--set key.path=value`; the value is read as YAML.

    Raises:
        ConfigError: no `=`, an empty key, or a path that runs through a value that is no mapping.
    """
    key, equals, text = argument.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise ConfigError(
            f"--set {argument!r}: expected key.path=value", hint="e.g. --set distill.epochs=2"
        )
    node = document.data
    for part in parts[:-1]:
        if not isinstance(node.get(part, {}), dict):
            raise ConfigError(f"--set {argument!r}: {part!r} is not a section")
        node = node.setdefault(part, {})
    try:
        node[parts[-1]] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {argument!r}: the value is not valid YAML") from error
    document.places[parts] = f"--set {argument}"
