"""The stages that train: what they refuse before they work, what they leave, what they resume."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgedistill.pipeline.config import Config
from edgedistill.pipeline.contracts import Artifact, Workspace
from edgedistill.pipeline.data.load import load_data
from edgedistill.pipeline.errors import ModelError
from edgedistill.pipeline.models.weights import save_weights
from edgedistill.pipeline.stages import data as data_stage
from edgedistill.pipeline.stages import distill, modelfiles, teacher
from edgedistill.pipeline.store import sha256_file
from edgedistill.pipeline.training import checkpoint
from edgedistill.pipeline.training.tensors import load_split, read_about

if TYPE_CHECKING:
    from collections.abc import Iterator

TEACHER = {"model": "mlp", "width": 32, "epochs": 2, "lr": 0.01}
STUDENT = {"model": "mlp", "width": 8}
DISTILL = {"method": "kd", "epochs": 2}
MODELS = """
import torch
from torch import nn

def net(num_classes, width=16):
    first, last = nn.Linear(64, width), nn.Linear(width, num_classes)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)

def wrong(num_classes):
    return net(7)

def fragile():
    raise RuntimeError("the builder broke")

COMMON = nn.Linear(64, 10)

def shared():
    return nn.Sequential(nn.Flatten(), COMMON)
"""


class Stopped(Exception):
    """What the progress callback raises in place of Ctrl-C."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """These networks are too small for two, which only wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("digits")
    data_stage.write(load_data({"source": "digits", "options": {}}, root), "digits", root)
    return Artifact("data", "", root, {}, None, "", "")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "models.py").write_text(MODELS)
    return folder


def config(**sections: dict) -> Config:
    base = {"teacher": TEACHER, "student": STUDENT, "distill": DISTILL, "train": {}}
    cpu = {"train": {"devices": "cpu"}}
    return Config(**{k: {**base[k], **cpu.get(k, {}), **sections.get(k, {})} for k in base})


class Work:
    """Folders of one stage, as the store makes them."""

    def __init__(self, folder: Path, progress=lambda done, total, note: None) -> None:
        self.folder, self.told = folder, []
        self.progress = progress

    def space(self) -> Workspace:
        out, scratch = self.folder / "out", self.folder / "scratch"
        for path in (out, scratch):
            path.mkdir(parents=True, exist_ok=True)

        def progress(done: int, total: int, note: str) -> None:
            self.told.append(done)
            self.progress(done, total, note)

        return Workspace(out, scratch, progress)

    def artifact(self) -> Artifact:
        out = self.folder / "out"
        names = [p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()]
        return Artifact(
            "model", "fp32", out, {n: sha256_file(out / n) for n in names}, None, "", ""
        )

    def note(self) -> dict:
        return json.loads((self.folder / "out" / "model.json").read_text())


def make_teacher(work: Work, root: Path, digits: Artifact, **keys: object) -> Work:
    teacher.run(config(teacher=keys), root, {"data": digits}, work.space())
    return work


def make_student(
    work: Work, root: Path, digits: Artifact, taught: Artifact | None = None, method: str = "kd",
    options: dict | None = None, **sections: dict,
) -> Work:  # fmt: skip
    inputs = {"data": digits} | ({"teacher": taught} if taught else {})
    spec = distill.MethodSpec(method, options or {})
    distill.run(spec, config(**sections), root, inputs, work.space())
    return work


@pytest.fixture(scope="module")
def taught(digits: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("taught")
    return make_teacher(Work(root / "work"), root, digits).artifact()


def accuracy(artifact: Artifact, digits: Artifact, split: str) -> float:
    logits = np.load(artifact.root / "outputs" / f"{split}.npy")
    return float((logits.argmax(1) == np.load(digits.root / split / "targets.npy")).mean())


def test_a_trained_teacher_leaves_all_that_later_stages_read(taught, digits, root) -> None:
    note = json.loads((taught.root / "model.json").read_text())
    history = json.loads((taught.root / "history.json").read_text())
    assert note["spec"]["options"]["width"] == 32
    assert note["parameters"] == 64 * 32 + 32 + 32 * 32 + 32 + 32 * 10 + 10
    assert len(history) == 2
    assert max(r["validation_accuracy"] for r in history) == pytest.approx(
        note["accuracy"]["validation"]
    )
    model = modelfiles.load(taught, digits, root, "teacher")
    assert not any(module.training for module in model.modules())
    for split in ("validation", "test"):
        assert accuracy(taught, digits, split) == pytest.approx(note["accuracy"][split])
        with torch.no_grad():
            logits = model(load_split(digits.root, split).inputs["input"])
        stored = np.load(taught.root / "outputs" / f"{split}.npy")
        np.testing.assert_allclose(logits.numpy(), stored, rtol=1e-5, atol=1e-5)


def write_weights(folder: Path, suffix: str, taught: Artifact, digits: Artifact) -> Path:
    model = modelfiles.load(taught, digits, folder, "teacher")
    file = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        save_weights(model, file)
    else:
        torch.save({"state_dict": model.state_dict()}, file)
    return file


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_loaded_weights_are_used_and_not_trained(taught, digits, root, tmp_path, suffix) -> None:
    file = write_weights(root, suffix, taught, digits)
    work = make_teacher(Work(tmp_path / "w"), root, digits, weights=file.name)
    assert work.told == []
    assert json.loads((work.artifact().root / "history.json").read_text()) == []
    got, wanted = (load_file(a.root / "weights.safetensors") for a in (work.artifact(), taught))
    assert all(torch.equal(got[key], wanted[key]) for key in wanted)
    note = json.loads((taught.root / "model.json").read_text())
    assert work.note()["accuracy"] == note["accuracy"]


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return Path.write_text, (self.victim, "boom")


@pytest.mark.parametrize("form", ["torch", "plain"])
def test_a_pickle_bomb_is_refused_unexploded(digits, root, tmp_path, form) -> None:
    victim, file = tmp_path / "victim", root / "weights.pt"
    if form == "torch":
        torch.save({"state_dict": Bomb(victim)}, file)
    else:
        file.write_bytes(pickle.dumps(Bomb(victim)))
    with pytest.raises(ModelError, match="weights"):
        make_teacher(Work(tmp_path / "w"), root, digits, weights="weights.pt")
    assert not victim.exists()


def test_weights_of_another_width_are_refused(taught, digits, root, tmp_path) -> None:
    file = write_weights(root, ".safetensors", taught, digits)
    with pytest.raises(ModelError, match="does not fit"):
        make_teacher(Work(tmp_path / "w"), root, digits, weights=file.name, width=16)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_wrong_number_of_classes_is_told_before_any_training(
    digits, root, tmp_path, role
) -> None:
    sections = {"teacher": {"model": "mlp"}, "student": {"model": "mlp"}}
    sections[role] = {"model": "models.py:wrong"}
    work = Work(tmp_path / "w")
    with pytest.raises(ModelError) as caught:
        teacher.run(Config(**sections), root, {"data": digits}, work.space())
    text = str(caught.value)
    assert f"{role} 'models.py:wrong'" in text
    assert "7" in text
    assert "10" in text
    assert work.told == []
    assert not (work.folder / "scratch" / checkpoint.FILE).exists()


def test_pitfall_04_a_teacher_at_chance_is_refused(digits, root, tmp_path) -> None:
    poor = make_teacher(Work(tmp_path / "w"), root, digits, epochs=1, lr=1e-12).artifact()
    with pytest.raises(ModelError, match=r"the teacher scores [0-9.]+% on the") as caught:
        make_student(Work(tmp_path / "s"), root, digits, poor)
    assert "10 classes" in caught.value.message
    assert "pre-processing" in caught.value.hint


def test_pitfall_04_a_teacher_with_its_labels_in_another_order_is_refused(
    taught, digits, root, tmp_path
) -> None:
    model = modelfiles.load(taught, digits, root, "teacher")
    order = (torch.arange(10) + 1) % 10
    model.head.weight.data, model.head.bias.data = model.head.weight[order], model.head.bias[order]
    save_weights(model, root / "turned.safetensors")
    turned = make_teacher(Work(tmp_path / "w"), root, digits, weights="turned.safetensors")
    with pytest.raises(ModelError, match="teacher scores") as caught:
        make_student(Work(tmp_path / "s"), root, digits, turned.artifact())
    assert "order of its labels" in caught.value.hint


def test_a_head_that_knows_nothing_is_no_matter_where_probes_teach(
    taught, digits, root, tmp_path
) -> None:
    model = modelfiles.load(taught, digits, root, "teacher")
    model.head.weight.data.zero_()
    save_weights(model, root / "headless.safetensors")
    headless = make_teacher(Work(tmp_path / "w"), root, digits, weights="headless.safetensors")
    options = {"probe_epochs": 20}
    work = make_student(
        Work(tmp_path / "s"), root, digits, headless.artifact(), "intermediate-probes", options,
        distill={"epochs": 6},
    )  # fmt: skip
    assert work.note()["accuracy"]["validation"] > 0.2  # twice chance


def test_pitfall_03_a_user_function_that_gives_one_model_twice_is_refused(
    digits, root, tmp_path
) -> None:
    shared = {"model": "models.py:shared"}
    whole = Config(teacher={**shared, "epochs": 1}, student=shared, distill=DISTILL)
    work = Work(tmp_path / "t")
    teacher.run(whole, root, {"data": digits}, work.space())
    inputs = {"data": digits, "teacher": work.artifact()}
    with pytest.raises(ModelError, match="teacher and student share"):
        distill.run(distill.MethodSpec("kd"), whole, root, inputs, Work(tmp_path / "s").space())


def test_checkpoints_are_kept_on_request(digits, root, tmp_path) -> None:
    work = make_teacher(Work(tmp_path / "w"), root, digits, epochs=5, checkpoints=2)
    kept = sorted(p.name for p in (work.folder / "out" / "checkpoints").iterdir())
    assert kept == ["epoch-0002.safetensors", "epoch-0004.safetensors"]
    weights = [load_file(work.folder / "out" / "checkpoints" / name) for name in kept]
    final = load_file(work.folder / "out" / "weights.safetensors")
    assert weights[0].keys() == weights[1].keys() == final.keys()
    assert not torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])


def test_no_checkpoints_are_kept_unasked(taught) -> None:
    assert not (taught.root / "checkpoints").exists()


def test_a_stopped_stage_leaves_the_bytes_of_an_unstopped_one(digits, root, tmp_path) -> None:
    def stop(done: int, total: int, note: str) -> None:
        if done == total * 2 // 3:
            raise Stopped

    keys = {"epochs": 3, "checkpoints": 1}
    whole = make_teacher(Work(tmp_path / "whole"), root, digits, **keys)
    with pytest.raises(Stopped):
        make_teacher(Work(tmp_path / "cut", stop), root, digits, **keys)
    resumed = make_teacher(Work(tmp_path / "cut"), root, digits, **keys)
    assert 0 < len(resumed.told) < len(whole.told)
    files = sorted(p.relative_to(whole.folder) for p in (whole.folder / "out").rglob("*.*"))
    assert {"epoch-0003.safetensors", "history.json", "model.json", "test.npy"} <= {
        p.name for p in files
    }
    for file in files:
        assert (resumed.folder / file).read_bytes() == (whole.folder / file).read_bytes(), file


def test_a_stage_that_was_killed_while_it_wrote_finds_its_checkpoints_again(
    digits, root, tmp_path
) -> None:
    keys = {"epochs": 2, "checkpoints": 1}
    first = make_teacher(Work(tmp_path / "w"), root, digits, **keys)
    (first.folder / "out").rename(tmp_path / "lost")  # the store empties it, scratch stays
    again = make_teacher(Work(tmp_path / "w"), root, digits, **keys)
    assert again.told == []
    kept = [sorted(p.name for p in (f / "checkpoints").iterdir())
            for f in (tmp_path / "lost", again.folder / "out")]  # fmt: skip
    assert kept[0] == kept[1] == ["epoch-0001.safetensors", "epoch-0002.safetensors"]


def test_kd_trains_a_student_that_beats_guessing(taught, digits, root, tmp_path) -> None:
    work = make_student(
        Work(tmp_path / "s"), root, digits, taught, distill={"epochs": 4, "lr": 0.01}
    )
    note = work.note()
    history = json.loads((work.artifact().root / "history.json").read_text())
    assert note["method"] == "kd"
    assert set(history[0]["loss"]) == {"labels", "teacher", "total"}
    best = history[note["best_epoch"] - 1]["validation_accuracy"]
    assert best == max(r["validation_accuracy"] for r in history) == note["accuracy"]["validation"]
    assert note["accuracy"]["test"] > 0.5


def test_the_stage_trains_alike_for_every_method(taught, digits, root, tmp_path) -> None:
    """Same first weights, order and views: `kd` without its teacher is the baseline."""
    bare = make_student(Work(tmp_path / "a"), root, digits, method="none")
    kd = make_student(Work(tmp_path / "b"), root, digits, taught, options={"alpha": 0})
    files = [(w.artifact().root / "weights.safetensors").read_bytes() for w in (bare, kd)]
    assert files[0] == files[1]
    seeded = make_student(Work(tmp_path / "c"), root, digits, method="none", train={"seed": 1})
    assert (seeded.artifact().root / "weights.safetensors").read_bytes() != files[0]


def test_pitfall_26_the_test_split_has_no_say(taught, digits, root, tmp_path) -> None:
    """Other test labels, the same student to the byte; other validation labels, another epoch."""
    import shutil

    def twisted(split: str) -> Artifact:
        folder = tmp_path / split
        shutil.copytree(digits.root, folder)
        targets = np.load(folder / split / "targets.npy")
        np.save(folder / split / "targets.npy", (targets + 3) % 10)
        return Artifact("data", "", folder, {}, None, "", "")

    def trained(data: Artifact, name: str) -> tuple[bytes, dict]:
        work = make_student(Work(tmp_path / name), root, data, taught, distill={"epochs": 3})
        return (work.artifact().root / "weights.safetensors").read_bytes(), work.note()

    (plain, note), (tested, test_note) = trained(digits, "s1"), trained(twisted("test"), "s2")
    assert plain == tested
    assert note["accuracy"]["test"] != test_note["accuracy"]["test"]
    validated, _ = trained(twisted("validation"), "s3")
    assert validated != plain


def test_user_models_are_built_with_their_options(digits, root, tmp_path) -> None:
    work = Work(tmp_path / "w")
    spec = {"model": "models.py:net", "width": 12}
    whole = Config(teacher={**spec, "epochs": 2, "lr": 0.01}, student={"model": "models.py:net"})
    teacher.run(whole, root, {"data": digits}, work.space())
    assert work.note()["parameters"] == 64 * 12 + 12 + 12 * 10 + 10
    assert set(work.note()["spec"]["code"]) == {"models.py"}
    about = read_about(digits.root)
    assert len(about["labels"]) == 10
