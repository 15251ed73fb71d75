from __future__ import annotations

import pytest

from edgedistill.pipeline.configfile import load_config
from edgedistill.pipeline.errors import ConfigError


def faults_of(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == 2
    return {fault.path: fault for fault in caught.value.faults}


def test_every_value_has_a_default(write_yaml):
    config = load_config(write_yaml("name: x"))
    assert config.data.source == "mnist5k"
    assert config.distill.options["temperature"] == 4.0
    assert config.distill.options["alpha"] == 0.9
    assert config.student.options == {"width": 24, "stem_stride": 2}


def test_every_fault_at_once_with_its_line(write_yaml):
    text = """\
nam: x
data: {source: digitz}
teacher:
  model: resnet99
  widht: 3
student: {model: dscnn, widht: 24}
distill: {method: kdd, epochs: many}
train: {device: cpu}
export:
  formats: [onnx, tflit]
  precisions: [fp32, int7]
evaluate:
  targets: [cpuu]
  goals: {accuracy: 120, sized: 3}
bundle: {keep: some}
"""
    faults = faults_of(write_yaml(text))
    wanted = {
        "nam": ("edge.yaml:1", "'x'", "did you mean 'name'"),
        "data.source": ("edge.yaml:2", "'digitz'", "did you mean 'digits'"),
        "teacher.model": ("edge.yaml:4", "'resnet99'", "did you mean 'resnet"),
        "student.widht": ("edge.yaml:6", "24", "did you mean 'width'"),
        "distill.method": ("edge.yaml:7", "'kdd'", "did you mean 'kd'"),
        "distill.epochs": ("edge.yaml:7", "'many'", ""),
        "train.device": ("edge.yaml:8", "'cpu'", "did you mean 'devices'"),
        "export.formats.1": ("edge.yaml:10", "'tflit'", "did you mean 'tflite'"),
        "export.precisions.1": ("edge.yaml:11", "'int7'", ""),
        "evaluate.targets.0": ("edge.yaml:13", "'cpuu'", "did you mean 'cpu'"),
        "evaluate.goals.accuracy": ("edge.yaml:14", "120", ""),
        "evaluate.goals.sized": ("edge.yaml:14", "3", "did you mean 'size'"),
        "bundle.keep": ("edge.yaml:15", "'some'", ""),
    }
    assert {k: (f.where, f.value) for k, f in faults.items()} == {
        k: (where, value) for k, (where, value, _) in wanted.items()
    }
    for key, (_, _, hint) in wanted.items():
        assert hint in faults[key].hint, key
    assert "integer" in faults["distill.epochs"].expected
    assert "'best' or 'all'" in faults["bundle.keep"].expected
    assert "'fp32'" in faults["export.precisions.1"].expected
    assert faults["evaluate.goals.accuracy"].expected == "less than or equal to 100"


def test_options_of_a_plugin_are_checked(write_yaml):
    faults = faults_of(write_yaml("distill: {temperature: 0, alpha: 2}\nteacher: {width: wide}"))
    assert faults["distill.temperature"].expected == "greater than 0"
    assert faults["distill.alpha"].expected == "less than or equal to 1"
    assert (faults["teacher.width"].where, faults["teacher.width"].value) == (
        "edge.yaml:2", "'wide'",
    )  # fmt: skip


def test_unknown_key_deep_in_a_plugins_options(write_yaml, tmp_path):
    (tmp_path / "x.npz").touch()
    text = "data: {source: arrays, path: x.npz, inputs: {image: {scal: 2}}}"
    faults = faults_of(write_yaml(text))
    assert "did you mean 'scale'" in faults["data.inputs.image.scal"].hint


@pytest.mark.parametrize("text", ["data:", "data: 3", "data: [digits]"])
def test_section_that_is_no_mapping(write_yaml, text):
    fault = faults_of(write_yaml(text))["data"]
    assert fault.expected == "a mapping of keys to values"


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("teacher: {weights: gone.safetensors}", "teacher.weights", "an existing .safetensors"),
        ("data: {source: arrays, path: gone.npz}", "data.path", "an existing file"),
        ("data: {source: arrays}", "data.path", "required"),
        ("data: {source: 'gone.py:splits'}", "data.source", "a Python file 'gone.py' beside"),
        ("student: {model: 'my.py:bild'}", "student.model", "a function in my.py"),
        ("student: {model: 'bad.py:build'}", "student.model", "valid Python (bad.py:1"),
        ("student: {model: 'my.py:build', widht: 3}", "student.widht", "an argument of build()"),
        ("data: {source: 'my.py:strict'}", "data.count", "strict() has no default for it"),
        ("distill: {lr: .inf}", "distill.lr", "a finite number"),
        ("evaluate: {goals: {accuracy_drop: .nan}}", "evaluate.goals.accuracy_drop", "finite"),
        ("export: {formats: []}", "export.formats", "at least 1 item"),
        ("export: {formats: [onnx, onnx]}", "export.formats.1", "each name once"),
        ("export: {precisions: [int8, int8]}", "export.precisions.1", "each name once"),
        ("evaluate: {targets: [cpu, cpu]}", "evaluate.targets.1", "each name once"),
        ("name: ../up", "name", "pattern"),
    ],
)
def test_fault(write_yaml, tmp_path, text, path, expected):
    (tmp_path / "my.py").write_text(
        "def build(num_classes, width=8): ...\ndef strict(count, *, files=()): ...\n"
    )
    (tmp_path / "bad.py").write_text("def build(:")
    faults = faults_of(write_yaml(text))
    assert list(faults) == [path]
    assert expected.lower() in faults[path].expected.lower()
    assert faults[path].where == "edge.yaml:1"


def test_users_functions_that_are_right(write_yaml, tmp_path):
    (tmp_path / "my.py").write_text(
        "from functools import partial\n"
        "from other import splits\n"
        "def make(num_classes, input_shape, width, depth=2): ...\n"
        "build = partial(make, width=3)\n"
        "def loose(**options): ...\n"
    )
    text = """\
data: {source: 'my.py:splits', files: [a.csv], anything: 1}
teacher: {model: 'my.py:build', width: 4}
student: {model: 'my.py:make', width: 8}
"""
    config = load_config(write_yaml(text))
    assert config.student.options == {"width": 8}
    assert load_config(write_yaml("student: {model: 'my.py:loose', any: 1}")).student.options


@pytest.mark.parametrize(
    ("goals", "key", "value"),
    [
        ("{size: 200 kB}", "size", 200e3),
        ("{size: 1.5MiB}", "size", 1.5 * 2**20),
        ("{size: 4096}", "size", 4096),
        ("{latency: 5 ms}", "latency", 5),
        ("{latency: 250 us}", "latency", 0.25),
        ("{latency: 0.5 s}", "latency", 500),
        ("{latency: 2}", "latency", 2),
    ],
)
def test_units(write_yaml, goals, key, value):
    config = load_config(write_yaml(f"evaluate: {{goals: {goals}}}"))
    assert getattr(config.evaluate.goals, key) == pytest.approx(value)


@pytest.mark.parametrize("goal", ["size: 3 miles", "size: big", "latency: 1.2.3 ms", "size: -1"])
def test_wrong_units(write_yaml, goal):
    key = goal.partition(":")[0]
    fault = faults_of(write_yaml(f"evaluate: {{goals: {{{goal}}}}}"))[f"evaluate.goals.{key}"]
    assert "a number with a unit such as" in fault.expected


def test_set_overrides_with_yaml_types(write_yaml):
    path = write_yaml("distill: {epochs: 3}")
    config = load_config(
        path,
        ["distill.epochs=7", "train.seed=1", "distill.baseline=false", "export.formats=[onnx]",
         "evaluate.goals.size=10 kB", "distill.epochs=8", "distill.temperature=2.5"],
    )  # fmt: skip
    assert (config.distill.epochs, config.train.seed, config.distill.baseline) == (8, 1, False)
    assert config.export.formats == ("onnx",)
    assert config.evaluate.goals.size == 10e3
    assert config.distill.options["temperature"] == 2.5


def test_a_fault_of_set_names_the_argument(write_yaml):
    fault = faults_of(write_yaml("name: x"), "distill.epochs=0")["distill.epochs"]
    assert (fault.where, fault.value) == ("--set distill.epochs=0", "0")


@pytest.mark.parametrize(
    "argument", ["distill.epochs", "=3", "distill..epochs=3", "name.x=1", "train.seed=[1"]
)
def test_set_that_cannot_be_read(write_yaml, argument):
    with pytest.raises(ConfigError, match="--set") as caught:
        load_config(write_yaml("name: x"), [argument])
    assert argument in caught.value.message


def test_options_that_mean_nothing_under_with_are_refused(write_yaml):
    path = write_yaml("distill: {method: kd, with: [{method: paced, kl: reverse, beta: 2}]}")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (fault,) = caught.value.faults
    assert fault.path == "distill.with.0.kl"
    assert "only distill.method's own loss is used" in fault.expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("distill: {with: paced}", "a list, such as"),
        ("distill: {with: [{course: two-shot}]}", "a value"),
    ],
)
def test_faults_are_told_without_the_words_of_python(write_yaml, text, expected):
    with pytest.raises(ConfigError) as caught:
        load_config(write_yaml(text))
    assert any(expected in fault.expected for fault in caught.value.faults)
    assert not any("tuple" in fault.expected for fault in caught.value.faults)
