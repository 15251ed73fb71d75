from __future__ import annotations

import pytest

from edgedistill.pipeline.config import Config
from edgedistill.pipeline.configfile import load_config
from edgedistill.pipeline.contracts import Missing
from edgedistill.pipeline.errors import ConfigError, MissingDependency
from edgedistill.pipeline.plan import make_plan, require

TEXT = "data: {source: digits}\nstudent: {model: mlp}\n"


@pytest.fixture
def plan(write_yaml):
    def make(*overrides, text=TEXT):
        path = write_yaml(text)
        return make_plan(load_config(path, overrides), path.parent)

    return make


def names(plan):
    return [stage.name for stage in plan.stages]


def test_the_stages_of_a_config(plan):
    assert names(plan("export.formats=[onnx]")) == [
        "data", "teacher", "baseline", "distill", "export-teacher", "export-onnx",
        "quantize-onnx-fp16", "quantize-onnx-int8", "evaluate-cpu", "select", "bundle", "report",
    ]  # fmt: skip


def test_names_are_unique_and_needs_come_before(plan):
    seen = set()
    for stage in plan().stages:
        assert stage.name not in seen
        assert {*stage.needs, *stage.optional} <= seen
        seen.add(stage.name)


def test_labels_alone_need_no_teacher_and_no_baseline(plan):
    made = plan("distill.method=none")
    assert "baseline" not in names(made)
    assert next(s for s in made.stages if s.name == "distill").needs == ("data",)


@pytest.mark.parametrize(
    ("until", "last", "absent"),
    [("distill", "distill", {"baseline", "export-onnx", "report"}),
     ("export", "export-tflite", {"quantize-onnx-int8", "evaluate-cpu", "baseline"}),
     ("bundle", "bundle", {"report"}), ("data", "data", {"teacher"})],
)  # fmt: skip
def test_until(plan, until, last, absent):
    cut = plan().until(until)
    assert names(cut)[-1] == last
    assert not absent & {*names(cut)} - ({"baseline"} if until == "bundle" else set())


def test_until_an_unknown_stage(plan):
    with pytest.raises(ConfigError, match="no stage 'distil'") as caught:
        plan().until("distil")
    assert "did you mean 'distill'" in caught.value.hint


def test_a_family_of_stages(plan):
    made = plan()
    assert made.matching("quantize-tflite") == ["quantize-tflite-fp16", "quantize-tflite-int8"]
    assert "export-teacher" in made.matching("export")


CHANGES = [
    ("distill.epochs=9", {"baseline", "distill"}),
    ("distill.temperature=2", {"distill"}),
    ("teacher.epochs=9", {"teacher"}),
    ("student.width=9", {"baseline", "distill"}),
    ("data.augment.shift=1", {"teacher", "baseline", "distill"}),
    ("train.seed=1", {"teacher", "baseline", "distill"}),
    ("quantize.calibration=9",
     {f"quantize-{k}-int8" for k in ("onnx", "openvino", "tflite")}),
    ("export.timeout=9", set()),
    ("evaluate.seconds=9", {"evaluate-cpu"}),
    ("evaluate.goals.accuracy=9", {"select"}),
    ("bundle.keep=all", set()),
    ("name=other", {"select", "report"}),
]  # fmt: skip


@pytest.mark.parametrize(("change", "stages"), CHANGES, ids=[change for change, _ in CHANGES])
def test_a_change_reaches_the_settings_of_just_these_stages(plan, change, stages):
    before = {stage.name: stage.settings for stage in plan().stages}
    after = {stage.name: stage.settings for stage in plan(change).stages}
    # the bundle carries the whole config
    assert {name for name in before if before[name] != after[name]} == stages | {"bundle"}


def test_a_changed_neighbour_of_a_users_model_changes_the_key(plan, tmp_path):
    (tmp_path / "my.py").write_text("from parts import f\ndef build(num_classes): ...\n")
    (tmp_path / "parts.py").write_text("f = 1\n")
    text = "data: {source: digits}\nstudent: {model: 'my.py:build'}\n"
    before = {stage.name: stage.settings for stage in plan(text=text).stages}
    (tmp_path / "parts.py").write_text("f = 2\n")
    after = {stage.name: stage.settings for stage in plan(text=text).stages}
    assert {name for name in before if before[name] != after[name]} == {"baseline", "distill"}


def test_what_is_missing_gives_one_pip_line():
    lacking = [Missing(("onnx", "onnxscript"), "onnx"), Missing(("nncf",), "openvino")]
    with pytest.raises(MissingDependency, match="not installed: nncf, onnx, onnxscript") as caught:
        require(lacking)
    assert caught.value.hint == "pip install 'edgedistill[onnx,openvino]'"
    require([])


def test_recovery_adds_its_stages_and_nothing_else(tmp_path):
    plain = make_plan(Config(export={"formats": ["onnx"]}), tmp_path)
    asked = {"export": {"formats": ["onnx"]}, "quantize": {"recover": "qad"}}
    made = make_plan(Config(**asked), tmp_path)
    added = [s.name for s in made.stages if s.name not in {s.name for s in plain.stages}]
    assert added == ["recover", "recover-onnx-int8"]
    fp32 = make_plan(Config(**asked | {"export": {"precisions": ["fp32"]}}), tmp_path)
    assert not any(stage.name.startswith("recover") for stage in fp32.stages)


def test_equalisation_is_tried_second_and_only_known_recipes_are_taken(tmp_path):
    def recipes(**quantize):
        plan = make_plan(Config(export={"formats": ["onnx"]}, quantize=quantize), tmp_path)
        (stage,) = (s for s in plan.stages if s.name == "quantize-onnx-int8")
        return stage.settings["recipes"]

    assert recipes()[:3] == ("minmax", "equalised", "percentile")
    assert recipes(recipes=["mixed", "equalised"]) == ("mixed", "equalised")
    with pytest.raises(ConfigError, match="minmx"):
        recipes(recipes=["minmx"])
