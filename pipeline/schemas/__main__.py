"""`python -m edgedistill.pipeline.schemas [FILE]`: rewrites the shipped schema of edge.yaml."""

from __future__ import annotations

import sys
from pathlib import Path

from . import CONFIG_SCHEMA, as_text, config_schema

if __name__ == "__main__":
    path = Path(*sys.argv[1:2]) if sys.argv[1:] else Path(__file__).with_name(CONFIG_SCHEMA)
    path.write_text(as_text(config_schema()), encoding="utf-8")
    print(path)
