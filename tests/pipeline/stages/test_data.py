"""Stage `data`: what later stages draw from it."""

from __future__ import annotations

import json

import numpy as np

from edgedistill.pipeline.stages.data import load_inputs, spread


def test_spread_covers_the_whole_split_evenly():
    assert spread(500, 256)[[0, -1]].tolist() == [0, 499]
    assert np.diff(spread(500, 256)).max() == 2
    assert spread(5, 16).tolist() == [0, 1, 2, 3, 4]
    assert spread(5, 1).tolist() == [0]


def test_calibration_of_a_split_sorted_by_class_sees_every_class(tmp_path):
    classes = np.repeat(np.arange(4.0, dtype=np.float32), 100)
    (tmp_path / "validation").mkdir()
    np.save(tmp_path / "validation" / "input.npy", classes[:, None])
    (tmp_path / "data.json").write_text(json.dumps({"inputs": [{"name": "input"}]}))
    drawn = load_inputs(tmp_path, "validation", 64)["input"]
    assert np.unique(drawn, return_counts=True)[1].tolist() == [16, 16, 16, 16]
    assert len(load_inputs(tmp_path, "validation")["input"]) == 400
