"""What select, bundle and report leave after the finished run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgedistill.pipeline.bundle import open_bundle, pack
from edgedistill.pipeline.runs import RunFolder
from edgedistill.pipeline.stages.bundle import collect


@pytest.fixture(scope="module")
def report(finished):
    return json.loads((finished.run / "report.json").read_text())


@pytest.fixture(scope="module")
def targets(finished):
    return np.load(finished.run / "stages/data/test/targets.npy")


def test_accuracies_are_those_of_the_outputs_of_the_runtimes(finished, report, targets):
    outputs = finished.run / "stages/evaluate-cpu/outputs"
    for entry in report["artifacts"]:
        logits = np.load(outputs / f"{entry['name']}.npy")
        assert len(logits) == len(targets) == report["data"]["sizes"]["test"]
        assert entry["accuracy"]["value"] == pytest.approx((logits.argmax(1) == targets).mean())


def test_teacher_student_and_baseline(finished, report, targets):
    for role, stage in (("teacher", "teacher"), ("student", "distill"), ("baseline", "baseline")):
        logits = np.load(finished.run / "stages" / stage / "outputs/test.npy")
        accuracy = (logits.argmax(1) == targets).mean()
        assert report[role]["accuracy"]["value"] == pytest.approx(accuracy)
    assert (report["student"]["method"], report["baseline"]["method"]) == ("kd", "none")


def test_the_drops_of_the_hops_add_up(report):
    teacher = report["teacher"]["accuracy"]["value"]
    for entry in report["artifacts"]:
        hops = [row for row in report["attribution"] if row["artifact"] == entry["name"]]
        assert sum(h["drop"] for h in hops) == pytest.approx(entry["drop"]["value"])
        whole = 100 * (teacher - entry["accuracy"]["value"])
        assert entry["drop"]["value"] == pytest.approx(whole)


def test_fp32_is_judged_by_nothing_and_the_rest_by_it(report):
    worth = {entry["name"]: entry["worth_it"] for entry in report["artifacts"]}
    assert {name for name, found in worth.items() if found is None} == {
        "onnx-fp32", "openvino-fp32", "tflite-fp32",
    }  # fmt: skip


def test_sizes_are_those_of_the_models_files(finished, report):
    store = RunFolder.find(finished.run).artifacts()
    sizes = {entry["name"]: entry["size_bytes"] for entry in report["artifacts"]}
    onnx = next(store["export-onnx"].root.glob("*.onnx"))
    assert sizes["onnx-fp32"] == sum(
        f.stat().st_size for f in onnx.parent.iterdir() if f.suffix != ".json"
    )
    assert sizes["tflite-int8"] < sizes["tflite-fp32"]


def test_the_bundle_holds_the_selected_artefact_and_how_to_judge_it(finished, report):
    bundle = open_bundle(finished.bundle)
    manifest = bundle.manifest
    assert manifest["default"] == report["selected"]
    (entry,) = manifest["artifacts"]
    assert all(name in bundle.files for name in entry["files"])
    assert entry["signature"]["inputs"][0]["layout"] == "NCHW"
    assert manifest["labels"] == report["data"]["labels"]
    assert entry["metrics"]["accuracy"] == next(
        e["accuracy"] for e in report["artifacts"] if e["name"] == entry["name"]
    )
    assert manifest["environment"]["cpu"]
    assert not [name for name in bundle.files if name.endswith((".pkl", ".pt", ".pth"))]
    card = bundle.files["MODEL_CARD.md"].decode()
    assert f"| {entry['name']} |" in card
    assert "| met |" in card


def test_the_same_inputs_give_the_same_bytes(finished):
    folder = RunFolder.find(finished.run)
    inputs, recipe = folder.artifacts(), folder.recipes()["bundle"]
    config, names = recipe["settings"]["config"], ["onnx-int8", "tflite-fp32"]
    reported = tuple(config["export"]["precisions"])
    needed = {name: inputs[name] for name in recipe["needs"]}
    first = pack(collect(config, names, reported, needed))
    backwards = dict(reversed(needed.items()))
    assert pack(collect(config, names, reported, backwards)) == first


def test_no_path_of_this_machine_is_in_the_bundle(finished):
    for name, content in open_bundle(finished.bundle).files.items():
        assert str(finished.root).encode() not in content, name


def test_the_page_is_one_file(finished):
    page = (finished.run / "report.html").read_text("utf-8")
    assert "<svg" in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert "onnx-int8" in (finished.run / "summary.md").read_text("utf-8")
