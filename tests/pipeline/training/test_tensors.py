"""Stored splits as tensors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.pipeline.training.tensors import load_split, to_channels_last

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    for number, name in enumerate(("right", "left")):
        np.save(tmp_path / "train" / f"{name}.npy", np.full((7, 2), number, np.float32))
    np.save(tmp_path / "train" / "targets.npy", np.arange(7))
    about = {"inputs": [{"name": "right"}, {"name": "left"}]}
    (tmp_path / "data.json").write_text(json.dumps(about))
    return tmp_path


def test_inputs_keep_their_order_and_batches_cover_them(stored: Path) -> None:
    split = load_split(stored, "train")
    assert list(split.inputs) == ["right", "left"]
    assert len(split) == 7
    batches = list(split.batches(3))
    assert [len(targets) for _, targets in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([targets for _, targets in batches]), torch.arange(7))
    assert all((inputs["left"] == 1).all() for inputs, _ in batches)


def test_writing_to_a_tensor_never_reaches_the_file(stored: Path) -> None:
    load_split(stored, "train").inputs["left"].fill_(5)
    assert (np.load(stored / "train" / "left.npy") == 1).all()


def test_pickled_arrays_are_refused(stored: Path) -> None:
    np.save(stored / "train" / "left.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        load_split(stored, "train")


def test_channels_last_changes_the_layout_of_2d_convolutions_alone() -> None:
    model = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3), nn.Linear(3, 4)])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert to_channels_last(model) is model
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[1].weight.is_contiguous()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
