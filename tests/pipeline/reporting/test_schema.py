from __future__ import annotations

import json
from importlib.resources import files

import pytest
from jsonschema import Draft202012Validator


@pytest.fixture(scope="module")
def validator():
    text = files("edgedistill.pipeline").joinpath("schemas/report.schema.json").read_text("utf-8")
    schema = json.loads(text)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_accepts_what_a_run_writes(validator, report, failing):
    assert list(validator.iter_errors(json.loads(json.dumps(report)))) == []
    assert list(validator.iter_errors(json.loads(json.dumps(failing)))) == []


@pytest.mark.parametrize(
    "key", ["schema", "teacher", "student", "baseline", "artifacts", "goals", "selected", "passed"]
)
def test_every_section_is_required(validator, report, key):
    del report[key]
    assert [error.validator for error in validator.iter_errors(report)] == ["required"]


def spoil_accuracy(report):
    report["student"]["accuracy"]["value"] = 98.7


def spoil_interval(report):
    report["artifacts"][0]["drop"]["ci95"] = [0.1]


def spoil_latency(report):
    report["artifacts"][0]["measurements"][0]["latency_ms"]["p50"] = None


def spoil_evidence(report):
    report["artifacts"][0]["measurements"][0]["evidence"] = "believed"


def spoil_precision(report):
    report["artifacts"][0]["precision"] = "int7"


def add_unknown(report):
    report["artifacts"][0]["note"] = "hello"


def raise_version(report):
    report["schema"] = 2


@pytest.mark.parametrize(
    "spoil",
    [spoil_accuracy, spoil_interval, spoil_latency, spoil_evidence, spoil_precision, add_unknown,
     raise_version],
)  # fmt: skip
def test_refuses(validator, report, spoil):
    spoil(report)
    assert not validator.is_valid(report)
