"""The example of a text classifier: two named inputs, from its grammar to a proven bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgedistill.pipeline.usercode import load_user_function

EXAMPLE = Path(__file__).parents[1] / "examples" / "text_classifier"
COMMAND = (sys.executable, "-m", "edgedistill.pipeline.cli")


@pytest.fixture(scope="module")
def data():
    return load_user_function("my_data.py:splits", EXAMPLE)()


def counts(inputs):
    """How often each token occurs, and a constant: what a bag of words sees."""
    rows = np.stack([np.bincount(tokens, minlength=200) for tokens in inputs["tokens"]])
    rows[:, 0] = 1
    return rows.astype(float)


def test_the_data_is_the_same_every_time_and_no_sentence_is_in_two_splits(data):
    again = load_user_function("my_data.py:splits", EXAMPLE)()
    rows = [data[name][0]["tokens"] for name in ("train", "validation", "test")]
    assert [len(part) for part in rows] == [2000, 500, 500]
    assert len(np.unique(np.concatenate(rows), axis=0)) == 3000
    for name, part in zip(("train", "validation", "test"), rows, strict=True):
        np.testing.assert_array_equal(again[name][0]["tokens"], part)
        np.testing.assert_array_equal(data[name][0]["mask"], part != 0)


def test_a_bag_of_words_does_not_get_the_labels(data):
    (train, targets), (test, wanted) = data["train"], data["test"]
    weights, *_ = np.linalg.lstsq(counts(train), np.eye(3)[targets], rcond=None)
    accuracy = ((counts(test) @ weights).argmax(1) == wanted).mean()
    assert 0.5 < accuracy < 0.85


@pytest.mark.slow
def test_it_runs_to_a_bundle_that_proves_itself(tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(EXAMPLE, mine, ignore=shutil.ignore_patterns("runs", "__pycache__"))

    def edgedistill(*arguments):
        return subprocess.run(
            [*COMMAND, *arguments], cwd=mine, capture_output=True, text=True, timeout=400
        )

    ended = edgedistill(
        "run", "edge.yaml",
        "--set", "teacher.epochs=10", "--set", "distill.epochs=10",
        "--set", "export.formats=[onnx]", "--set", "evaluate.seconds=0.05",
        "--set", "evaluate.goals={accuracy_drop: 30}",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    bundle = ended.stdout.strip()
    report = json.loads((mine / "runs" / "remarks" / "report.json").read_text())
    assert {row["name"] for row in report["artifacts"]} == {"onnx-fp32", "onnx-int8"}

    verified = edgedistill("verify", bundle)
    assert verified.returncode == 0, verified.stderr

    encode = load_user_function("my_data.py:encode", mine)
    tokens, mask = encode("although my screen is bad , the battery is great")
    np.savez(mine / "remark.npz", tokens=tokens, mask=mask)
    answered = edgedistill("predict", bundle, "remark.npz")
    assert answered.returncode == 0, answered.stderr
    assert "positive" in answered.stdout
