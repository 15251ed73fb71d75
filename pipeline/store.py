"""Content-addressed artefacts: atomic, verified, shared safely by several processes.

    <runs>/.store/<stage>/<key>/       a finished artefact; artifact.json describes it
    <runs>/.store/.work/<key>/out      what a stage is filling; renamed when it is done
    <runs>/.store/.work/<key>/scratch  survives a kill (training checkpoints)
    <runs>/.store/.locks/<key>         held while a stage works on that key

An artefact is visible only when it is complete; a failure is never stored; a damaged artefact is
noticed when it is looked up, dropped, and made again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .contracts import Artifact, Description, Signature
from .errors import EdgeDistillError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

RECORD = "artifact.json"
SCHEMA = 1


def canonical(data: Any) -> bytes:
    """JSON bytes that are equal for equal data."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explaining(part), part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing right into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing(path)).free / 1e6
            hint = "free some space, or choose another disk with --runs; then the same command"
            raise StoreError(f"no disk space left ({free:.0f} MB free): {path}", hint) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            hint = "choose a folder that you may write to with --runs DIR"
            raise StoreError(f"may not write {path}: {error.strerror}", hint) from error
        raise


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


class Damaged(EdgeDistillError):
    """An artefact is not what it was when it was stored."""


class Store:
    """The artefacts below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artefact of a key, verified; None where there is none.

        Raises:
            Damaged: it is there, but a file was changed, lost or added.
        """
        folder = self._folder(stage, key)
        if not folder.is_dir():
            return None
        return _read(folder, key)

    def drop(self, stage: str, key: str) -> None:
        """Forget an artefact."""
        folder = self._folder(stage, key)
        if folder.is_dir():
            trash = self.root / ".work" / f"{key}.trash{os.getpid()}"
            trash.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(trash)
            shutil.rmtree(trash)

    @contextmanager
    def lock(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the right to make the artefact of `key`; waits while another process holds it."""
        path = self.root / ".locks" / key
        with explaining(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def work_folders(self, key: str) -> tuple[Path, Path]:
        """An empty `out` and the kept `scratch` of a key; hold its lock."""
        out, scratch = (self.root / ".work" / key / name for name in ("out", "scratch"))
        with explaining(out):
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
        return out, scratch

    def commit(self, stage: str, key: str, about: Description) -> Artifact:
        """Make what stands in `out` the artefact of `key`, in one rename."""
        out = self.root / ".work" / key / "out"
        files = {name: sha256_file(out / name) for name in _names(out)}
        record = {
            "schema": SCHEMA,
            "stage": stage,
            "key": key,
            "kind": about.kind,
            "precision": about.precision,
            "signature": about.signature.to_json() if about.signature else None,
            "files": files,
        }
        write_atomic(out / RECORD, json.dumps(record, indent=1, sort_keys=True).encode())
        folder = self._folder(stage, key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        out.rename(folder)
        shutil.rmtree(out.parent)
        return _read(folder, key)

    def _folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key


def _names(folder: Path) -> list[str]:
    paths = (p for p in folder.rglob("*") if p.is_file() or p.is_symlink())
    return sorted(p.relative_to(folder).as_posix() for p in paths)


def _read(folder: Path, key: str) -> Artifact:
    try:
        record = json.loads((folder / RECORD).read_bytes())
        files, signature = record["files"], record["signature"]
        kind, precision = record["kind"], record["precision"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder / RECORD} cannot be read: {error}") from error
    if record.get("schema") != SCHEMA or record.get("key") != key:
        raise Damaged(f"{folder / RECORD} is of another schema or key")
    _verify(folder, files)
    what = {"kind": kind, "precision": precision, "signature": signature, "files": files}
    digest = hashlib.sha256(canonical(what)).hexdigest()
    spec = Signature.from_json(signature) if signature else None
    return Artifact(kind, precision, folder, files, spec, key, digest)


def _verify(folder: Path, files: Mapping[str, str]) -> None:
    present = set(_names(folder)) - {RECORD}
    if lost := sorted(set(files) - present):
        raise Damaged(f"{folder / lost[0]} is missing")
    if added := sorted(present - set(files)):
        raise Damaged(f"{folder / added[0]} does not belong there")
    for name, digest in files.items():
        if sha256_file(folder / name) != digest:
            raise Damaged(f"{folder / name} was changed")
