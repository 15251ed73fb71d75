from __future__ import annotations

import numpy as np
import pytest

from edgedistill.pipeline.evaluation.attribution import attribute
from edgedistill.pipeline.evaluation.verdict import drop


def right(*wrong, total=20):
    return ~np.isin(np.arange(total), wrong)


TEACHER, STUDENT = right(0), right(0, 1, 2)
ARTIFACTS = {
    "onnx-fp32": right(0, 1, 2),
    "onnx-int8": right(0, 1, 3, 4),
    "tflite-int8": right(1, 2),
}


def test_by_hand():
    rows = attribute(TEACHER, STUDENT, ARTIFACTS)
    told = {(r["artifact"], r["hop"]): (r["accuracy"], round(r["drop"], 9)) for r in rows}
    assert told == {
        ("onnx-fp32", "teacher -> student"): (0.85, 10),
        ("onnx-fp32", "student -> onnx-fp32"): (0.85, 0),
        ("onnx-int8", "teacher -> student"): (0.85, 10),
        ("onnx-int8", "student -> onnx-fp32"): (0.85, 0),
        ("onnx-int8", "onnx-fp32 -> onnx-int8"): (0.8, 5),
        ("tflite-int8", "teacher -> student"): (0.85, 10),
        ("tflite-int8", "student -> tflite-int8"): (0.9, -5),
    }


def test_the_drops_of_the_hops_add_up():
    generator = np.random.default_rng(3)
    teacher, student, *files = generator.random((6, 500)) < 0.8
    names = ("onnx-fp32", "onnx-int8", "onnx-int8-dynamic", "openvino-fp16")
    artifacts = dict(zip(names, files, strict=True))
    rows = attribute(teacher, student, artifacts)
    for name in names:
        hops = [row["drop"] for row in rows if row["artifact"] == name]
        assert sum(hops) == pytest.approx(drop(teacher, artifacts[name])["value"])


def test_every_hop_has_an_interval_around_it():
    for row in attribute(TEACHER, STUDENT, ARTIFACTS):
        low, high = row["ci95"]
        assert low <= row["drop"] <= high
