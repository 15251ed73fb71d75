"""Content-addressed artefacts: atomic, verified, shared safely by several processes.

    <runs>/.store/<stage>/<key>/       a finished artefact; artifact.json describes it
    <runs>/.store/.work/<key>/out      what a stage is filling; renamed when it is done
    <runs>/.store/.work/<key>/scratch  survives a kill (training checkpoints)
    <runs>/.store/.locks/<key>         held while a stage works on that key
    <runs>/.store/.shared/             what stages may use again and nobody needs; may be removed

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
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from .contracts import Artifact, Description, Signature
from .errors import EdgeDistillError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

RECORD = "artifact.json"
SCHEMA = 2
LOCK_POLL_SECONDS = 0.1
_FULL_BYTES = 1_000_000  # less free space than this counts as a full disk


def canonical(data: Any) -> bytes:
    """JSON bytes that are equal for equal data."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explaining(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing right into an error that says what to do.

    Libraries and child processes tell a full disk in their own words, so the disk is asked too.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        told = _told(path, error)
        if told is None:
            raise
        raise told from error


def _told(path: Path, error: Exception) -> StoreError | None:
    """What an error says of the disk or its rights; None if it is about something else."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        hint = "choose a folder that you may write to; for runs with --runs DIR"
        return StoreError(f"may not write {path}: {os.strerror(number)}", hint)
    if number == errno.ENOENT:
        return None
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or _free_bytes(path) < _FULL_BYTES:
        return _full(path, error)
    in_the_way = [p for p in (path, *path.parents) if p.exists() and not p.is_dir()]
    if number in (errno.ENOTDIR, errno.EEXIST) and in_the_way:
        hint = "choose another folder with --runs DIR"
        return StoreError(f"{in_the_way[-1]} is a file, expected a folder", hint)
    return None


def _full(path: Path, error: Exception) -> StoreError:
    reason = getattr(error, "strerror", None) or str(error)
    hint = "free some space, or choose another disk with --runs; then the same command resumes"
    free = _free_bytes(path) / 1e6
    return StoreError(f"no disk space for {path} ({free:.0f} MB free): {reason}", hint)


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free


class Damaged(EdgeDistillError):
    """An artefact is not what it was when it was stored."""


class Store:
    """The artefacts below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shared = root / ".shared"

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
            with explaining(folder):
                trash.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(trash)
                shutil.rmtree(trash)

    @contextmanager
    def lock(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the right to make the artefact of `key`; waits while another process holds it.

        Args:
            key: of the artefact.
            on_wait: called again and again while another holds it; may raise to give up.
        """
        path = self.root / ".locks" / key
        with explaining(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("w")
        with handle:
            while not _try_lock(handle):
                on_wait()
                time.sleep(LOCK_POLL_SECONDS)
            yield

    def work_folders(self, key: str) -> tuple[Path, Path]:
        """An empty `out` and the kept `scratch` of a key; hold its lock."""
        out, scratch = (self.root / ".work" / key / name for name in ("out", "scratch"))
        with explaining(out):
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
        return out, scratch

    def abandon(self, key: str) -> None:
        """Throw away what stands in `out`; the scratch of a stage stays, to resume from."""
        shutil.rmtree(self.root / ".work" / key / "out", ignore_errors=True)

    def commit(self, stage: str, key: str, about: Description) -> Artifact:
        """Make what stands in `out` the artefact of `key`, in one rename."""
        out = self.root / ".work" / key / "out"
        files = {name: sha256_file(out / name) for name in _names(out)}
        record: dict[str, Any] = {
            "kind": about.kind,
            "precision": about.precision,
            "signature": about.signature.to_json() if about.signature else None,
            "files": files,
        }
        record |= {"schema": SCHEMA, "stage": stage, "key": key, "digest": _digest(record)}
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


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _digest(record: Mapping[str, Any]) -> str:
    """Hash of what an artefact is: everything that whoever uses it can see."""
    what = {name: record[name] for name in ("kind", "precision", "signature", "files")}
    return hashlib.sha256(canonical(what)).hexdigest()


def _read(folder: Path, key: str) -> Artifact:
    try:
        record = json.loads((folder / RECORD).read_bytes())
        digest = _digest(record)
        told = (record["schema"], record["key"], record["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder / RECORD} cannot be read: {error}") from error
    if told != (SCHEMA, key, digest):
        raise Damaged(f"{folder / RECORD} was changed, or is of another schema")
    files, signature = record["files"], record["signature"]
    _verify(folder, files)
    spec = Signature.from_json(signature) if signature else None
    return Artifact(record["kind"], record["precision"], folder, files, spec, key, digest)


def _verify(folder: Path, files: Mapping[str, str]) -> None:
    present = set(_names(folder)) - {RECORD}
    if lost := sorted(set(files) - present):
        raise Damaged(f"{folder / lost[0]} is missing")
    if added := sorted(present - set(files)):
        raise Damaged(f"{folder / added[0]} does not belong there")
    for name, digest in files.items():
        try:
            changed = sha256_file(folder / name) != digest
        except OSError as error:
            raise Damaged(f"{folder / name} cannot be read: {error.strerror}") from error
        if changed:
            raise Damaged(f"{folder / name} was changed")
