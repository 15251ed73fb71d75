"""The rehearsal: faults that the distillation would meet are told before the teacher is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from edgedistill.pipeline.config import Config
from edgedistill.pipeline.contracts import Artifact, Workspace
from edgedistill.pipeline.data.load import load_data
from edgedistill.pipeline.errors import EdgeDistillError
from edgedistill.pipeline.stages import data as data_stage
from edgedistill.pipeline.stages.rehearsal import rehearse

if TYPE_CHECKING:
    from pathlib import Path

BASE = {
    "teacher": {"model": "resnet8", "width": 4, "checkpoints": 1},
    "student": {"model": "dscnn", "width": 4},
    "train": {"devices": "cpu"},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("digits")
    data_stage.write(load_data({"source": "digits", "options": {}}, root), "digits", root)
    return Artifact("data", "", root, {}, None, "", "")


@pytest.fixture
def play(digits: Artifact, tmp_path: Path):
    """`play(distill, **sections)`: rehearse with an untrained teacher."""
    torch.set_num_threads(1)

    def act(distill: dict, seed: int = 0, **sections: dict) -> None:
        torch.manual_seed(seed)
        config = Config(**{**BASE, **sections, "distill": distill})
        space = Workspace(tmp_path, tmp_path, lambda *_: None, shared=tmp_path / "shared")
        rehearse(config, tmp_path, digits, space)

    return act


@pytest.mark.parametrize("seed", range(4))
def test_what_is_fitted_to_an_untrained_teacher_is_not_refused(play, seed) -> None:
    play({"method": "kd", "calibrate": True}, seed)


def test_folds_are_of_the_whole_split(play) -> None:
    play({"method": "intermediate-probes", "folds": 100, "probe_epochs": 1})


@pytest.mark.parametrize(
    ("distill", "sections", "message"),
    [
        ({"method": "fitnets", "student_layer": "stgae1"}, {}, "stgae1"),
        ({"method": "fitnets"}, {"train": {"cache_limit": 1e3}}, r"train\.cache_limit is 1\.0 kB"),
        ({"method": "paced", "estimator": "passes"}, {}, "augmented views"),
        ({"method": "attention-transfer", "layers": [["head", "head"]]}, {}, "head"),
    ],
)
def test_a_misfit_is_told(play, distill, sections, message) -> None:
    with pytest.raises(EdgeDistillError, match=message):
        play(distill, **sections)
