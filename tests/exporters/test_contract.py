"""What every installed exporter owes the pipeline; a new one inherits these tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points, version

import pytest

from edgedistill.exporters._files import missing_libraries
from edgedistill.exporters._quiet import quiet
from edgedistill.pipeline.contracts import PRECISIONS

POINTS = sorted(entry_points(group="edgedistill.exporters"), key=lambda point: point.name)
HEAVY = [
    *("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf"),
    *("litert_torch", "ai_edge_litert", "ai_edge_quantizer", "tensorflow", "numpy"),
    *("executorch.exir", "executorch.extension", "torchao"),
]


def fresh(code):
    """Last line that a fresh interpreter prints, read as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_exporter_says_who_it_is(point):
    exporter = point.load()()
    assert exporter.kind == point.name
    assert exporter.precisions[0] == "fp32"
    assert set(exporter.precisions) <= set(PRECISIONS)
    assert len(set(exporter.precisions)) == len(exporter.precisions)
    assert isinstance(exporter.version, int)
    assert exporter.version >= 1
    assert all(version(library) for library in exporter.libraries)
    assert exporter.missing() is None


def test_missing_library_names_the_extra():
    missing = missing_libraries(("json", "no_such_converter"), "onnx")
    assert missing is not None
    assert missing.libraries == ("no_such_converter",)
    assert missing.pip_line == "pip install 'edgedistill[onnx]'"


def test_asking_what_is_missing_imports_nothing_heavy():
    modules = [point.value.partition(":")[0] for point in POINTS]
    code = (
        f"import sys, json, importlib\n"
        f"from importlib.metadata import entry_points\n"
        f"for point in entry_points(group='edgedistill.exporters'): point.load()().missing()\n"
        f"loaded = [name for name in {modules} if name in sys.modules]\n"
        f"print(json.dumps([loaded, [name for name in {HEAVY} if name in sys.modules]]))"
    )
    loaded, heavy = fresh(code)
    assert sorted(loaded) == sorted(modules)
    assert heavy == []


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_convert_works_without_torch(make, cases, tmp_path, kind):
    import numpy as np

    source = make(kind, "mlp")
    np.savez(tmp_path / "samples.npz", **cases["mlp"].feeds)
    code = f"""
import json, sys
from importlib.metadata import entry_points
from pathlib import Path
import numpy as np
from edgedistill.pipeline.contracts import Artifact, Signature
(point,) = entry_points(group="edgedistill.exporters", name={kind!r})
signature = Signature.from_json(json.loads({json.dumps(source.signature.to_json())!r}))
source = Artifact({kind!r}, "fp32", Path({str(source.root)!r}), {{}}, signature, "", "")
samples = dict(np.load({str(tmp_path / "samples.npz")!r}))
for precision in ("fp16", "int8"):
    folder = Path({str(tmp_path)!r}) / precision
    folder.mkdir()
    point.load()().convert(source, precision, samples, folder)
print(json.dumps("torch" in sys.modules))
"""
    assert fresh(code) is False
    for precision in ("fp16", "int8"):
        for name in source.files:
            made = (tmp_path / precision / name).read_bytes()
            assert made == (make(kind, "mlp", precision).root / name).read_bytes()


def test_quiet_keeps_stdout_clean_and_gives_the_environment_back(capsys, monkeypatch):
    monkeypatch.setenv("CI", "mine")
    monkeypatch.delenv("NNCF_CI", raising=False)
    with quiet():
        print("a converter's progress")
        assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
        assert os.environ["CI"] == "true"
    assert os.environ["CI"] == "mine"
    assert "NNCF_CI" not in os.environ
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "progress" in captured.err


def test_export_prints_nothing_to_stdout(exporter, cases, tmp_path, capfd):
    exporter.export(cases["mlp"].model, cases["mlp"].signature, tmp_path)
    assert capfd.readouterr().out == ""
