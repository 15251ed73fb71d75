from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

import edgedistill
from edgedistill.pipeline.schemas import CONFIG_SCHEMA, as_text, config_schema

ROOT = Path(edgedistill.__file__).parent


@pytest.fixture(scope="module")
def shipped():
    return files("edgedistill.pipeline").joinpath(f"schemas/{CONFIG_SCHEMA}").read_text("utf-8")


@pytest.fixture(scope="module")
def validator(shipped):
    schema = json.loads(shipped)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_shipped_file_is_what_the_generator_writes(shipped):
    again = "run `python -m edgedistill.pipeline.schemas`"
    assert shipped == as_text(config_schema()), again


def test_the_module_writes_it(shipped, tmp_path):
    path = tmp_path / "edge.schema.json"
    subprocess.run([sys.executable, "-m", "edgedistill.pipeline.schemas", path], check=True)
    assert path.read_text("utf-8") == shipped


@pytest.mark.parametrize(
    "path",
    [*sorted(ROOT.glob("examples/*/edge.yaml")), ROOT / "pipeline/templates/edge.yaml"],
    ids=lambda path: path.parent.name,
)
def test_what_we_ship_is_valid(validator, path):
    document = yaml.safe_load(path.read_text("utf-8"))
    assert [error.message for error in validator.iter_errors(document)] == []


@pytest.mark.parametrize(
    ("section", "key"),
    [("student", "width"), ("distill", "temperature"), ("data", "path"), ("data", "fractions"),
     ("teacher", "weights"), ("student", "dropout")],
)  # fmt: skip
def test_an_editor_can_complete_options_of_plugins(shipped, section, key):
    schema = json.loads(shipped)
    name = schema["properties"][section]["$ref"].rpartition("/")[2]
    assert schema["$defs"][name]["properties"][key]["description"]


@pytest.mark.parametrize(
    "document",
    [{"distill": {"epochs": 0}}, {"student": {"width": "wide"}}, {"trian": {}},
     {"export": {"precisions": ["int7"]}}, {"distill": {"temperature": -1}},
     {"evaluate": {"goals": {"speed": 3}}}],
)  # fmt: skip
def test_refuses(validator, document):
    assert not validator.is_valid(document)


def test_accepts_users_code_and_units(validator):
    document = {
        "data": {"source": "my.py:splits", "own": 3},
        "evaluate": {"goals": {"size": "200 kB", "latency": 5}},
    }
    assert validator.is_valid(document)
