from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files

import pytest
import torch
from jsonschema import Draft202012Validator

from edgedistill.pipeline.cli import cli

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "openvino", "nncf", "litert_torch",
         "ai_edge_litert", "tensorflow", "pydantic", "rich", "yaml")  # fmt: skip
SPY = f"""
import sys
from edgedistill.pipeline.cli import main
try:
    main()
finally:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("command", [None, *cli.commands])
def test_help_imports_nothing_heavy(command):
    arguments = [command, "--help"] if command else ["--help"]
    ended = subprocess.run(
        [sys.executable, "-c", SPY, *arguments], capture_output=True, text=True, check=True
    )
    assert "Usage:" in ended.stdout
    assert ended.stderr.strip() == "[]"


def test_version(project):
    assert project.type("--version").stdout.split() == [
        "edgedistill,", "version", version("edgedistill"),
    ]  # fmt: skip


def test_the_commands_of_the_design_are_there():
    named = {"run", "plan", "benchmark", "bundle", "verify", "predict", "report", "list", "doctor",
             "init", "compare", "reproduce"}  # fmt: skip
    assert named <= cli.commands.keys()


def one_document(ended):
    """stdout is exactly one JSON document."""
    document, end = json.JSONDecoder().raw_decode(ended.stdout)
    assert ended.stdout[end:].strip() == ""
    return document


# ------------------------------------------------------------------------------- faults of usage


def test_faults_of_a_config(project):
    project.config.write_text("name: x\nteachr: {}\ndistill: {epochs: 0}\n")
    ended = project.type("run", "edge.yaml", "--json")
    assert ended.returncode == 2
    document = one_document(ended)
    assert document["error"] == "ConfigError"
    assert [(f["path"], f["where"]) for f in document["faults"]] == [
        ("teachr", "edge.yaml:2"), ("distill.epochs", "edge.yaml:3"),
    ]  # fmt: skip
    assert "did you mean 'teacher'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "resume" not in ended.stderr
    assert not (project.root / "runs").exists()


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_config_that_is_not_there(project, command):
    ended = project.type(command, "gone.yaml")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "gone.yaml" in ended.stderr
    assert "edgedistill init" in ended.stderr


def test_v_shows_where_an_error_came_from_and_keeps_the_exit_code(project):
    ended = project.type("-v", "run", "gone.yaml")
    assert ended.returncode == 2
    assert "Traceback" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [["run", "edge.yaml", "--until", "distil"], ["run", "edge.yaml", "--again", "distil"],
     ["run", "edge.yaml", "--set", "distill.epochs"], ["list", "mothods"], ["benchmark", "--json"],
     ["run"], ["nonsense"], ["benchmark", "gone.onnx"], ["benchmark", "edge.yaml"],
     ["report", "gone"], ["bundle", "gone"], ["init", "."], ["reproduce", "kdd"],
     ["reproduce", "--seeds", "0"], ["compare", "edge.yaml"],
     ["compare", "edge.yaml", "--methods", "kdd"], ["compare", "edge.yaml", "--methods", " ,"],
     ["compare", "edge.yaml", "--methods", "kd", "--seeds", "0"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage(project, arguments):
    ended = project.type(*arguments)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["run", "--json"], 2), (["plan", "gone.yaml", "--json"], 2), (["verify", "x", "--json"], 1),
     (["predict", "x", "y", "--json"], 1), (["report", "x", "--json"], 2),
     (["benchmark", "x.onnx", "--json"], 2), (["list", "x", "--json"], 2)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)  # fmt: skip
def test_json_also_when_it_fails(project, arguments, code):
    ended = project.type(*arguments)
    assert ended.returncode == code
    assert one_document(ended)["message"]


# --------------------------------------------------------------------- commands without a run


@pytest.mark.parametrize("folder", ["naïve näme!!", "日本", "x" * 80, "-"])
def test_init_of_any_folder_writes_a_config_that_plans(project, folder):
    project.type("init", f"./{folder}")
    assert project.type("plan", f"./{folder}/edge.yaml").returncode == 0


def test_cuda_without_a_gpu_is_refused_before_any_work(project):
    project.type("init", "here")
    ended = project.type("plan", "here/edge.yaml", "--set", "train.devices=cuda")
    if torch.cuda.is_available():
        pytest.skip("a CUDA GPU is here")
    assert ended.returncode == 2
    assert "train.devices = cuda: no CUDA GPU" in ended.stderr


def test_bundle_into_a_folder(finished, tmp_path):
    ended = finished.type("bundle", finished.run, "--artifact", "onnx-fp32", "--out", tmp_path)
    assert ended.returncode == 0
    assert [p.suffix for p in tmp_path.iterdir()] == [".zip"]


def test_init_writes_a_config_that_plans(project):
    ended = project.type("init", "mine")
    assert (ended.returncode, ended.stdout) == (0, "mine/edge.yaml\n")
    assert "edgedistill run mine/edge.yaml" in ended.stderr
    schema = json.loads((project.root / "mine/edge.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    first = (project.root / "mine/edge.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=edge.schema.json"
    lines = one_document(project.type("plan", "mine/edge.yaml", "--json"))
    assert {line["state"] for line in lines} == {"to do"}
    assert lines[-1]["stage"] == "report"
    assert not (project.root / "runs").exists()
    again = project.type("init", "mine")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_list(project):
    found = one_document(project.type("list", "--json"))
    assert found.keys() == {"methods", "exporters", "targets", "models", "data"}
    assert {"none", "kd"} <= {row["name"] for row in found["methods"]}
    assert all(row["what"] for rows in found.values() for row in rows)
    ended = project.type("list", "methods")
    assert "Hinton" in ended.stdout
    assert "onnxruntime" not in ended.stdout


def test_doctor(project):
    found = one_document(project.type("doctor", "--json"))
    assert found["edgedistill"] == version("edgedistill")
    versions = {row["library"]: row["version"] for row in found["libraries"]}
    assert versions["torch"] == version("torch")
    assert {"onnx", "openvino", "ai-edge-litert", "matplotlib"} <= versions.keys()
    assert "isa_features" in found["machine"]
    lacking = {r["needed_for"] for r in found["libraries"] if r["version"] is None}
    assert len(found["pip"]) == len(lacking)
    assert version("torch") in project.type("doctor").stdout


def test_plan_before_a_run(project):
    lines = one_document(project.type("plan", "edge.yaml", "--json"))
    whys = {line["stage"]: line["why"] for line in lines}
    assert whys["data"] == "never made"
    assert whys["distill"] == "data, teacher to do first"


# ------------------------------------------------------------------------------- on a finished run


def test_the_report_of_a_run_keeps_its_schema(finished):
    schema = json.loads(
        files("edgedistill.pipeline").joinpath("schemas/report.schema.json").read_text("utf-8")
    )
    report = one_document(finished.type("report", finished.run, "--json"))
    assert [e.message for e in Draft202012Validator(schema).iter_errors(report)] == []
    names = [artifact["name"] for artifact in report["artifacts"]]
    assert sorted(names) == sorted(
        f"{kind}-{precision}"
        for kind in ("onnx", "openvino", "tflite") for precision in ("fp32", "fp16", "int8")
    )  # fmt: skip
    assert report["failures"] == []
    assert report["passed"]


def test_report_prints_the_page(finished):
    ended = finished.type("report", finished.run)
    assert ended.stdout == "runs/tiny/report.html\n"
    assert "onnx-int8" in ended.stderr


def test_verify(finished):
    ended = finished.type("verify", finished.bundle)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "every byte as packed" in ended.stdout
    assert "golden outputs repeated" in ended.stdout
    document = one_document(finished.type("verify", finished.bundle, "--json"))
    assert (document["sound"], document["proved"], document["meets_goals"]) == (True,) * 3


HIDDEN = """
import sys
from importlib.machinery import PathFinder
class Hide:
    find_distributions = PathFinder.find_distributions
    def find_spec(name, path=None, target=None):
        return None if name in hidden else real(name, path, target)
hidden, sys.argv = set(sys.argv[1].split(",")), ["edgedistill", *sys.argv[2:]]
real = PathFinder.find_spec
sys.meta_path = [Hide if finder is PathFinder else finder for finder in sys.meta_path]
from edgedistill.pipeline.cli import main
main()
"""


def verify_without(hidden, *arguments):
    """`edgedistill verify` in an interpreter that finds none of these libraries."""
    command = [sys.executable, "-c", HIDDEN, hidden, "verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_verify_without_a_runtime_proves_nothing(finished, tmp_path):
    path = tmp_path / "two.edge.zip"
    names = ("--artifact", "onnx-fp16", "--artifact", "tflite-int8")
    finished.type("bundle", finished.run, *names, "--out", path)
    ended = verify_without("onnxruntime,ai_edge_litert", path)
    assert ended.returncode == 2
    assert "onnx-fp16: not run, onnxruntime not installed" in ended.stdout
    assert "pip install 'edgedistill[onnx]'" in ended.stderr
    document = one_document(verify_without("onnxruntime,ai_edge_litert", path, "--json"))
    assert document["error"] == "MissingDependency"
    half = verify_without("onnxruntime", path)
    assert half.returncode == 0, half.stderr
    assert "onnx-fp16: not run, onnxruntime not installed" in half.stdout
    assert not one_document(verify_without("onnxruntime", path, "--json"))["proved"]


def test_a_bundle_of_a_format_that_the_config_no_longer_names(copied):
    record = json.loads((copied.run / "run.json").read_text())
    needs = record["recipes"]["bundle"]["needs"]
    for stage in [name for name in needs if "tflite" in name]:
        del needs[stage]  # as a run without the format leaves it: older recipes stay
    (copied.run / "run.json").write_text(json.dumps(record))
    ended = copied.type("bundle", copied.run, "--artifact", "tflite-int8")
    assert ended.returncode == 1
    assert "has no artefact 'tflite-int8'" in ended.stderr
    assert "it has: onnx-fp16" in ended.stderr


def test_verify_names_the_file_with_a_changed_byte(copied):
    content = bytearray(copied.bundle.read_bytes())
    position = (
        content.index(b"Test accuracy") if b"Test accuracy" in content else content.index(b"# tiny")
    )
    content[position] ^= 1
    copied.bundle.write_bytes(content)
    ended = copied.type("verify", copied.bundle)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "MODEL_CARD.md was changed" in ended.stderr


def test_predict(finished):
    raw = finished.run / "stages/data/raw/input.npy"
    rows = one_document(finished.type("predict", finished.bundle, raw, "--json"))
    assert len(rows) == 16
    lines = finished.type("predict", finished.bundle, raw).stdout.splitlines()
    assert [line.split(": ")[1].split()[0] for line in lines] == [row["label"] for row in rows]


def test_bundle_of_other_artefacts(finished, tmp_path):
    names = ("--artifact", "onnx-fp16", "--artifact", "tflite-int8", "--artifact", "onnx-fp16")
    ended = finished.type("bundle", finished.run, *names, "--out", tmp_path / "two.edge.zip")
    assert ended.stdout.strip() == str(tmp_path / "two.edge.zip")
    rows = one_document(finished.type("verify", tmp_path / "two.edge.zip", "--json"))["artifacts"]
    assert [row["name"] for row in rows] == ["onnx-fp16", "tflite-int8"]
    wrong = finished.type("bundle", finished.run, "--artifact", "onnx-int4")
    assert wrong.returncode == 1
    assert "it has: onnx-fp16" in wrong.stderr


def test_a_bundle_of_the_selected_is_the_bundle_of_the_run(finished, tmp_path):
    finished.type("bundle", finished.run, "--out", tmp_path / "again.edge.zip")
    assert (tmp_path / "again.edge.zip").read_bytes() == finished.bundle.read_bytes()


def test_benchmark_of_a_bundle_and_of_bare_files(finished):
    onnx = next((finished.run / "stages/export-onnx/").glob("*.onnx"))
    tflite = next((finished.run / "stages/quantize-tflite-int8/").glob("*.tflite"))
    files = (finished.bundle, onnx, tflite)
    rows = one_document(finished.type("benchmark", *files, "--seconds", "0.02", "--json"))
    assert [row["name"].partition("/")[0] for row in rows] == ["tiny", onnx.name, tflite.name]
    assert all(0 < row["latency_ms"]["min"] <= row["latency_ms"]["p50"] for row in rows)
    assert rows[0]["golden_samples"] == 16
    assert rows[1]["golden_accuracy"] is None
    table = finished.type("benchmark", onnx, "--seconds", "0.02")
    assert onnx.name in table.stdout
    assert "measured on this host" in table.stdout
