"""What of the outside world belongs in a stage's key: files by their content."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..store import sha256_file
from ..usercode import source_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def code_digests(reference: str, root: Path) -> dict[str, str]:
    """sha256 of the user's file and of its neighbours that it imports, by relative path."""
    return file_digests(source_files(reference, root), root)


def file_digests(files: Iterable[Path], root: Path) -> dict[str, str]:
    """sha256 of files, by their path relative to the config."""
    return {os.path.relpath(path, root.resolve()): sha256_file(path) for path in files}
