"""The bundle `NAME.edge.zip`: a deterministic zip that proves what it claims.

Its last 64 bytes (the zip comment) are the sha256 of everything before them, so that no byte can
change unnoticed; SHA256SUMS and the manifest then name the file that did. A `Bundle` is made by
`open_bundle` alone: it is verified, or it does not exist. Nothing in it is pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from .errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA = 1
SUMS, MANIFEST = "SHA256SUMS", "manifest.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_KEYS = ("name", "default", "artifacts", "labels", "preprocessing", "passed")
_SEAL = 64  # hex digits of the sha256 in the zip comment


# what zipfile raises on a damaged archive, besides OSError
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: the file.
        manifest: what it says of itself.
        files: relative posix path -> content.
    """

    path: Path
    manifest: dict[str, Any]
    files: Mapping[str, bytes]

    def artifact(self, name: str | None = None) -> dict[str, Any]:
        """The manifest's entry of an artefact; the default one without a name.

        Raises:
            BundleError: there is none of that name.
        """
        wanted = name or self.manifest["default"]
        for entry in self.manifest["artifacts"]:
            if entry["name"] == wanted:
                return dict(entry)
        there = ", ".join(entry["name"] for entry in self.manifest["artifacts"])
        raise BundleError(f"the bundle has no artefact {wanted!r}", f"it holds: {there}")

    def arrays(self, prefix: str) -> dict[str, Any]:
        """The .npy files below a folder of the bundle, by stem."""
        import numpy as np

        return {
            PurePosixPath(name).stem: np.load(io.BytesIO(content), allow_pickle=False)
            for name, content in sorted(self.files.items())
            if PurePosixPath(name).parent == PurePosixPath(prefix) and name.endswith(".npy")
        }

    def extract(self, folder: Path) -> None:
        """Write every file below `folder`."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def pack(files: Mapping[str, bytes]) -> bytes:
    """A bundle's bytes: the same for the same files, whatever the clock and the machine say."""
    content = {**files, SUMS: _sums(files)}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, content[name])
        archive.comment = b"0" * _SEAL
    body = stream.getvalue()[:-_SEAL]
    return body + hashlib.sha256(body).hexdigest().encode()


def _sums(files: Mapping[str, bytes]) -> bytes:
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return "".join(lines).encode()


def open_bundle(path: Path) -> Bundle:
    """Read a bundle and verify every byte of it.

    Raises:
        BundleError: it is no bundle, a file was changed, lost or added, a path leaves the folder,
            or its schema is newer than this version knows.
    """
    try:
        raw = path.read_bytes()
        archive = zipfile.ZipFile(io.BytesIO(raw))
    except OSError as error:
        why = error.strerror or str(error)
        raise BundleError(f"{path} cannot be read: {why}", "expected a NAME.edge.zip") from error
    except _UNREADABLE as error:
        raise BundleError(
            f"{path} is not a readable bundle: {error}", "expected a NAME.edge.zip"
        ) from error
    files = {name: _content(archive, name) for name in _safe_names(archive)}
    _check_sums(files)
    if hashlib.sha256(raw[:-_SEAL]).hexdigest().encode() != raw[-_SEAL:]:
        raise BundleError(
            f"{path}: the archive's own directory was changed (every file in it is sound)",
            "fetch the bundle again from where it was made",
        )
    return Bundle(path, _manifest(files), files)


def _safe_names(archive: zipfile.ZipFile) -> list[str]:
    names = archive.namelist()
    for name in names:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or "\\" in name or ":" in name or ".." in parts or not parts:
            raise BundleError(f"{name!r} leaves the bundle's folder", "do not use this bundle")
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise BundleError(f"{doubled[0]!r} stands twice in the bundle", "do not use this bundle")
    return [name for name in names if not name.endswith("/")]


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # so nothing can swell
        raise _changed(name)
    try:
        return archive.read(name)
    except _UNREADABLE as error:
        raise _changed(name) from error


def _changed(name: str) -> BundleError:
    return BundleError(f"{name} was changed", "fetch the bundle again from where it was made")


def _check_sums(files: Mapping[str, bytes]) -> None:
    if SUMS not in files:
        raise BundleError(f"{SUMS} is missing", "this is no bundle, or it was taken apart")
    try:
        lines = files[SUMS].decode().splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except ValueError as error:
        raise _changed(SUMS) from error
    present = set(files) - {SUMS}
    for name in sorted(present & set(sums)):
        if hashlib.sha256(files[name]).hexdigest() != sums[name]:
            raise _changed(name)
    if lost := sorted(set(sums) - present):
        raise BundleError(f"{lost[0]} is missing", "fetch the bundle again")
    if added := sorted(present - set(sums)):
        raise BundleError(f"{added[0]} does not belong in the bundle", "do not use this bundle")


def _manifest(files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        manifest = json.loads(files[MANIFEST])
        schema = manifest["schema"]
    except (KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{MANIFEST} is missing or unreadable: {error}") from error
    if not isinstance(schema, int) or schema > SCHEMA:
        raise BundleError(
            f"the bundle's schema is {schema!r}, this version reads up to {SCHEMA}",
            "upgrade: pip install --upgrade edgedistill",
        )
    if lacking := [key for key in _KEYS if key not in manifest]:
        raise BundleError(f"{MANIFEST} lacks {', '.join(lacking)}", "do not use this bundle")
    return dict(manifest)
