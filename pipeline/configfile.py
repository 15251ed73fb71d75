"""Reads an edge.yaml, applies `--set`, and finds every fault of it at once."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from . import plugins, yamlfile
from .config import Config
from .errors import ConfigError, Fault
from .methods import composed
from .models.foreign import FOREIGN
from .options import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic.fields import FieldInfo

    from .yamlfile import Document, KeyPath

# section -> (key that names the plugin, kind of plugin)
PLUGIN_KEYS = {
    "data": ("source", "data"),
    "teacher": ("model", "models"),
    "student": ("model", "models"),
    "distill": ("method", "methods"),
}
USER_CODE = ("data", "models")
# sections whose keys hold lists of plugins' names
NAME_LISTS = (("export", "formats", "exporters"), ("evaluate", "targets", "targets"))
# what edgedistill itself gives to, or keeps from, a user's function
OFFERED = {"data": (), "models": ("num_classes", "input_shape", "input_shapes")}
KEPT = {"data": ("files",), "models": ()}


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a config.

    Args:
        path: the edge.yaml.
        overrides: `key.path=value` arguments, applied in order.

    Raises:
        ConfigError: with every fault of the file, each with its place, value and what was expected.
    """
    document = yamlfile.read(path)
    for argument in overrides:
        yamlfile.override(document, argument)
    return check(document, path.resolve().parent)


def check(document: Document, root: Path) -> Config:
    """Turn a document into a Config, or raise every fault of it."""
    faults = [*_plugin_faults(document, root), *_name_faults(document)]
    faults += [*_composition_faults(document, root), *_file_faults(document, root)]
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        faults += _faults(error, (), document, Config)
    else:
        if not faults:
            return config
    raise ConfigError(f"{document.file} has {len(faults)} fault(s):", sorted(faults, key=_line))


def _line(fault: Fault) -> tuple[str, int]:
    file, _, line = fault.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (fault.where, 0)


def _faults(
    error: ValidationError, prefix: KeyPath, document: Document, model: type[BaseModel]
) -> Iterator[Fault]:
    for item in error.errors(include_url=False):
        path = (*prefix, *item["loc"])
        expected, hint = _explain(item["type"], item["msg"], item["loc"], model)
        value = "(missing)" if item["type"] == "missing" else repr(document.get(path))
        yield Fault(".".join(map(str, path)), document.place(path), value, expected, hint)


def _explain(
    kind: str, message: str, loc: tuple[int | str, ...], model: type[BaseModel]
) -> tuple[str, str]:
    if kind == "extra_forbidden":
        known = _fields(model, loc[:-1])
        return "a known key", nearest(str(loc[-1]), known)
    if kind in ("model_type", "dict_type"):
        return "a mapping of keys to values", ""
    if kind in ("tuple_type", "list_type"):
        return "a list, such as [one, other]", ""
    if kind == "missing":
        return "a value: it is required", ""
    return message.removeprefix("Value error, ").removeprefix("Input should be "), ""


def _fields(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the model that stands at a path below `model`."""
    for key in path:
        if str(key) not in keys_of(model):
            continue  # a name of the user's own, in a dict of models, or a place in a list
        annotation = keys_of(model)[str(key)].annotation
        candidates = (annotation, *_arguments(annotation))
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(keys_of(model))


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a section as a file spells them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _arguments(annotation: object) -> Iterator[object]:
    """All types inside a type, such as `M` in `tuple[Annotated[M, ...], ...]`."""
    for argument in get_args(annotation):
        yield argument
        yield from _arguments(argument)


def _plugin_faults(document: Document, root: Path) -> Iterator[Fault]:
    """Check the plugins' own keys, and write them back with their defaults filled in."""
    for section, (key, kind) in PLUGIN_KEYS.items():
        given = document.data.get(section, {})
        own = Config.model_fields[section].annotation
        if not isinstance(given, dict) or own is None:
            continue  # the section's own check says what is wrong
        name = given.get(key, keys_of(own)[key].default)
        extras = {k: v for k, v in given.items() if k not in keys_of(own)}
        if not isinstance(name, str):
            continue
        if kind in USER_CODE and ":" in name:
            yield from _user_code_faults(name, extras, (section, key), document, root)
        elif name not in plugins.names(kind):
            hint = nearest(name, plugins.names(kind))
            where = document.place((section, key))
            yield Fault(f"{section}.{key}", where, repr(name), f"an installed {kind} plugin", hint)
        else:
            plugin = plugins.load(kind, name)
            known = [*keys_of(own), *plugin.Options.model_fields]
            yield from _option_faults((section,), plugin, extras, known, document, root)


def _option_faults(
    prefix: KeyPath,
    plugin: Any,
    extras: Mapping[str, Any],
    known: Sequence[str],
    document: Document,
    root: Path,
) -> Iterator[Fault]:
    """Check a plugin's own keys below a path, and write them back with their defaults."""
    unknown = [key for key in extras if key not in plugin.Options.model_fields]
    for key in unknown:
        path = (*prefix, key)
        where, name = document.place(path), ".".join(map(str, path))
        yield Fault(name, where, repr(extras[key]), "a known key", nearest(key, known))
    given = {key: value for key, value in extras.items() if key not in unknown}
    try:
        options = plugin.Options.model_validate(given)
    except ValidationError as error:
        yield from _faults(error, prefix, document, plugin.Options)
        return
    if "path" in given and not (root / str(given["path"])).exists():
        path = (*prefix, "path")
        where, name = document.place(path), ".".join(map(str, path))
        yield Fault(name, where, repr(given["path"]), "an existing file or folder")
    document.fill(prefix, options.model_dump(mode="json"))


def _composition_faults(document: Document, root: Path) -> Iterator[Fault]:
    """Check the methods under `distill.with`, each for itself and all together."""
    path: KeyPath = ("distill", "with")
    listed = document.get(path)
    if not isinstance(listed, list):
        return  # none, or the section's own check says what is wrong
    others: list[Any] = []
    for number, item in enumerate(listed):
        if isinstance(item, str):
            listed[number] = item = {"method": item}
        name = item.get("method") if isinstance(item, dict) else None
        if not isinstance(name, str):
            continue
        if name not in plugins.names("methods"):
            where, hint = document.place((*path, number)), nearest(name, plugins.names("methods"))
            key = f"distill.with.{number}.method"
            yield Fault(key, where, repr(name), "an installed methods plugin", hint)
            continue
        others.append(plugins.method(name))
        extras = {key: value for key, value in item.items() if key != "method"}
        known = ["method", *others[-1].Options.model_fields]
        yield from _option_faults((*path, number), others[-1], extras, known, document, root)
        for key in sorted(others[-1].own_loss & extras.keys()):
            where = document.place((*path, number, key))
            unread = f"no {key}: under `with`, only distill.method's own loss is used"
            yield Fault(f"distill.with.{number}.{key}", where, repr(extras[key]), unread)
    main = document.get(("distill", "method")) or Config.model_fields["distill"].default.method
    if main in plugins.names("methods"):
        for fault in composed.faults(plugins.method(main), others):
            names = [other.name for other in others]
            where = document.place(path)
            yield Fault("distill.with", where, repr(names), "methods that compose", fault)


def _user_code_faults(
    reference: str, options: Mapping[str, Any], path: KeyPath, document: Document, root: Path
) -> Iterator[Fault]:
    """Check a "file.py:function" without running it: the file, the function, its keywords."""
    file, _, function = reference.partition(":")
    name, where = ".".join(map(str, path)), document.place(path)
    try:
        tree = ast.parse((root / file).read_text(encoding="utf-8"), filename=file)
    except OSError:
        yield Fault(name, where, repr(reference), f"a Python file {file!r} beside {document.file}")
        return
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        yield Fault(name, where, repr(reference), f"valid Python ({file}:{line}: {error})")
        return
    found = _top_level(tree)
    if function not in found:
        hint = nearest(function, found) if found else f"{file} defines no function"
        yield Fault(name, where, repr(reference), f"a function in {file}", hint)
    elif isinstance(node := found[function], ast.FunctionDef):
        yield from _keyword_faults(node, options, path, document)


def _top_level(tree: ast.Module) -> dict[str, ast.stmt]:
    """What a module names at its top level: definitions, imports and assignments."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {t.id: node for t in node.targets if isinstance(t, ast.Name)}
    return found


def _keyword_faults(
    node: ast.FunctionDef, options: Mapping[str, Any], path: KeyPath, document: Document
) -> Iterator[Fault]:
    section, kind = str(path[0]), PLUGIN_KEYS[str(path[0])][1]
    own, arguments = _fields(Config, (section,)), node.args
    named = [*arguments.args, *arguments.kwonlyargs]
    accepted = [a.arg for a in named]
    unknown = [k for k in options if k not in (*accepted, *KEPT[kind])]
    for key in unknown if arguments.kwarg is None else ():
        hint = nearest(key, [*accepted, *own])
        expected = f"a known key or an argument of {node.name}()"
        where = document.place((section, key))
        yield Fault(f"{section}.{key}", where, repr(options[key]), expected, hint)
    padded = [*[None] * len(arguments.args), *arguments.defaults]
    values = [*padded[len(arguments.defaults) :], *arguments.kw_defaults]
    needed = [a for a, value in zip(accepted, values, strict=True) if value is None]
    for key in needed:
        if key not in (*options, *OFFERED[kind]):
            expected = f"a value: {node.name}() has no default for it"
            yield Fault(f"{section}.{key}", document.place(path), "(missing)", expected)


def _name_faults(document: Document) -> Iterator[Fault]:
    """Names that only the installed plugins know, and whatever is listed twice."""
    for section, key, kind in NAME_LISTS:
        for index, name in enumerate(_listed(document, section, key)):
            if isinstance(name, str) and name not in plugins.names(kind):
                hint = nearest(name, plugins.names(kind))
                where = document.place((section, key, index))
                path = f"{section}.{key}.{index}"
                yield Fault(path, where, repr(name), f"one of the installed {kind}", hint)
    for section, key in (*((s, k) for s, k, _ in NAME_LISTS), ("export", "precisions")):
        names = _listed(document, section, key)
        for index, name in enumerate(names):
            if name in names[:index]:
                where = document.place((section, key, index))
                yield Fault(f"{section}.{key}.{index}", where, repr(name), "each name once")


def _listed(document: Document, section: str, key: str) -> list[Any]:
    value = document.get((section, key))
    return value if isinstance(value, list) else []


def _file_faults(document: Document, root: Path) -> Iterator[Fault]:
    """Files that must be there."""
    section = document.get(("teacher",))
    given = {k: v for k, v in section.items() if v is not None} if isinstance(section, dict) else {}
    weights = given.get("weights")
    if isinstance(weights, str) and not (root / weights).is_file():
        yield _teacher_fault(document, "weights", "an existing .safetensors or .pt file")
    for key, kind in FOREIGN.items():
        if isinstance(given.get(key), str) and not kind.is_there(root / given[key]):
            yield _teacher_fault(document, key, f"an existing {kind.what}")
    whole = [key for key in given if key in FOREIGN]
    for key in ("model", "weights", *FOREIGN) if whole else ():
        if key in given and key != whole[0]:
            wanted = f"nothing beside teacher.{whole[0]}, which is a whole model"
            yield _teacher_fault(document, key, wanted)
    if "layout" in given and not whole:
        yield _teacher_fault(document, "layout", f"one of teacher.{', '.join(FOREIGN)} beside it")


def _teacher_fault(document: Document, key: str, expected: str) -> Fault:
    path: KeyPath = ("teacher", key)
    return Fault(f"teacher.{key}", document.place(path), repr(document.get(path)), expected)
