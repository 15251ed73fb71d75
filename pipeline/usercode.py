"""The user's own Python files: functions named as `my_model.py:build`.

A file may import its neighbours, as if it had been started as a script, without leaving traces
on `sys.path` and without two folders' `helper.py` being mixed up. What fails in it is reported
with the user's file and line.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import EdgeDistillError, ModelError
from .options import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

_neighbours: dict[Path, dict[str, ModuleType]] = {}


def load_user_function(
    reference: str, root: Path, error: type[EdgeDistillError] = ModelError
) -> Callable[..., Any]:
    """Load a function (or class) from a user's file.

    Args:
        reference: `path/to/file.py:function`, relative to `root`.
        root: the folder of edge.yaml.
        error: the class to raise.

    Returns:
        A callable with the signature of the user's own. What it raises comes out as `error`,
        with file and line of the user's code and the original error as cause.

    Raises:
        EdgeDistillError: of class `error`: no such file, no such function, or the file failed.
    """
    path, name = _locate(reference, root, error)
    with _running(path, error):
        module = _module(path)
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, value in vars(module).items() if _is_own(value, module)]
        raise error(f"{path} has no function {name!r}", nearest(name, known))

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        with _running(path, error):
            return function(*args, **kwargs)

    return call


def check_arguments(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    owner: str,
    error: type[EdgeDistillError],
) -> None:
    """Check that `function(**arguments)` is a legal call.

    Raises:
        EdgeDistillError: of class `error`; names the parameters that the function has.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(**arguments)
    except TypeError as exc:
        unknown = [name for name in arguments if name not in signature.parameters]
        known = list(signature.parameters)
        hint = nearest(unknown[0], known) if unknown else f"Its parameters: {', '.join(known)}"
        raise error(f"{owner} cannot be called with {sorted(arguments)}: {exc}", hint) from exc


def source_files(
    reference: str, root: Path, error: type[EdgeDistillError] = ModelError
) -> tuple[Path, ...]:
    """The file of a reference and every neighbour that it imports, directly or not.

    Their content decides what the function does, so the store hashes them.

    Raises:
        EdgeDistillError: of class `error`: no such file.
    """
    path, _ = _locate(reference, root, error)
    found: set[Path] = set()
    todo = [path]
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            todo.extend(_imported_files(current, path.parent))
    return tuple(sorted(found))


def _locate(reference: str, root: Path, error: type[EdgeDistillError]) -> tuple[Path, str]:
    file, _, name = reference.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        hint = "Write it like 'my_file.py:my_function', relative to the config file"
        raise error(f"{reference!r} does not name a function in a Python file", hint)
    path = (root / file).resolve()
    if path.is_file():
        return path, name
    there = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
    raise error(f"There is no file {path}", f"In {path.parent}: {nearest(path.name, there)}")


def _module(path: Path) -> ModuleType:
    """The executed module; the same file with the same content is executed once."""
    source = path.read_bytes()
    digest = hashlib.sha256(str(path).encode() + b"\0" + source).hexdigest()[:16]
    name = f"edgedistill_user_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    # The source is compiled here: a cached .pyc is trusted by its date and size alone, so an
    # edit within the same second would be overlooked.
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    if spec is None:
        raise ImportError(f"no import spec for {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        exec(loader.source_to_code(source, str(path)), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_own(value: object, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", "") == module.__name__


@contextmanager
def _running(path: Path, error: type[EdgeDistillError]) -> Iterator[None]:
    """User code runs inside: neighbours can be imported, failures are told by file and line."""
    try:
        with _importable(path.parent):
            yield
    except EdgeDistillError:
        raise
    # SystemExit: a script without a `__main__` guard must not end the pipeline without a word.
    except (Exception, SystemExit) as exc:
        what = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
        raise error(f"{_place(exc, path)}: {what}", "Mend the file, then run again") from exc


def _place(exc: BaseException, path: Path) -> str:
    """`file:line` of the innermost frame that lies in the user's folder."""
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{exc.filename}:{exc.lineno}"
    frames = traceback.extract_tb(exc.__traceback__)
    own = [f for f in frames if Path(f.filename).is_relative_to(path.parent)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else str(path)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make the Python files of `folder` importable by their plain names.

    A module of the same name from elsewhere (another user folder's `helper`) is out of sight
    meanwhile and comes back afterwards.
    """
    names = _importable_names(folder)
    hidden = {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] in names and not _lies_in(module, folder)
    }
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(_neighbours.get(folder, {}))
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        _neighbours[folder] = {
            name: module
            for name, module in sys.modules.items()
            if name.partition(".")[0] in names and _lies_in(module, folder)
        }
        sys.modules.update(hidden)


def _importable_names(folder: Path) -> set[str]:
    files = {path.stem for path in folder.glob("*.py")}
    packages = {path.parent.name for path in folder.glob("*/*.py")}
    own_package = __name__.partition(".")[0]
    return (files | packages) - sys.stdlib_module_names - {own_package}


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    places = [file] if file else list(getattr(module, "__path__", []))
    return any(Path(place).is_relative_to(folder) for place in places)


def _imported_files(path: Path, folder: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # reported with its line when the file is loaded
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module_files(folder, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else folder
            for alias in node.names:
                yield from _module_files(base, f"{node.module or ''}.{alias.name}".strip("."))


def _module_files(base: Path, dotted: str) -> Iterator[Path]:
    """Files below `base` that importing `dotted` executes; none if it lies elsewhere."""
    place = base
    for part in dotted.split("."):
        place = place / part
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                yield file.resolve()
