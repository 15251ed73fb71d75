"""What every installed method must keep; a new one inherits this suite by its entry point."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import torch

from edgedistill.pipeline import plugins
from edgedistill.pipeline.config import DistillSection
from edgedistill.pipeline.configfile import keys_of
from edgedistill.pipeline.contracts import CurvePoint, Method

METHODS = sorted(e.name for e in entry_points(group="edgedistill.methods"))
CURVE = tuple(CurvePoint(e, a, 2 - a, True) for e, a in ((1, 0.3), (2, 0.4), (3, 0.9), (4, 0.95)))


class Recording(Method):
    """Another method, and what it was given and gave."""

    def __init__(self, inner: Method) -> None:
        self.inner, self.needs, self.parts, self.batches = inner, inner.needs, [], []

    def __getattribute__(self, name):
        own = ("inner", "needs", "parts", "batches", "loss", "__class__")
        return object.__getattribute__(self, name) if name in own else getattr(self.inner, name)

    def loss(self, batch, helpers):
        parts = self.inner.loss(batch, helpers)
        self.parts.append(dict(parts))
        self.batches.append(batch)
        return parts


@pytest.fixture(params=METHODS)
def method(request) -> Method:
    kind = plugins.method(request.param)
    assert kind.name == request.param
    return kind(kind.Options())


def loop(kit, method, **changes):
    models = {point.epoch: kit.model("resnet8", seed=point.epoch) for point in CURVE}
    source = kit.source(kit.teacher(), curve=CURVE, checkpoints=models)
    return kit.loop(method, kit.model(seed=4), source, **{"epochs": 2, **changes})


def test_it_can_be_listed_without_torch() -> None:
    code = (
        "import sys; from edgedistill.pipeline import plugins;"
        f"found = [plugins.method(n) for n in {METHODS}];"
        "assert all(m.summary and m.Options.model_json_schema() for m in found);"
        "[m(m.Options()).needs for m in found];"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_it_says_what_it_is(method) -> None:
    assert 10 < len(method.summary) < 100
    assert method.name == "none" or any(word.isdigit() for word in method.citation.split())
    assert "Options of" in (method.Options.__doc__ or "")
    assert {*method.gives, *method.takes} <= {"target", "weights", "checkpoint", "network"}


def test_every_option_is_described_has_a_default_and_survives_json(method) -> None:
    options = method.Options()
    assert all(field.description for field in method.Options.model_fields.values())
    written = json.loads(json.dumps(options.model_dump(mode="json")))
    assert method.Options.model_validate(written) == options


def test_its_options_hide_no_key_of_the_section(method) -> None:
    assert not {*method.Options.model_fields} & {*keys_of(DistillSection)}


def test_the_loss_is_finite_fp32_scalars_that_reach_the_student(kit, method) -> None:
    recording = Recording(method)
    training = loop(kit, recording, epochs=3)
    before = kit.weights(training.trainable)
    training.fit()
    parts = [part for step in recording.parts for part in step.values()]
    assert len(recording.parts) == training.steps
    assert parts
    assert all(p.dtype == torch.float32 and p.shape == () and p.isfinite() for p in parts)
    trained = dict(training.trainable.named_parameters())
    moved = [name for name in trained if not torch.equal(trained[name], before[name])]
    assert moved == list(trained)


def test_it_sees_what_it_asked_for(kit, method) -> None:
    recording, needs = Recording(method), method.needs
    loop(kit, recording, epochs=1).fit()
    first = recording.batches[0]
    assert {*first.student_features} >= {*needs.student_taps}
    assert {*first.teacher_features} >= {*needs.teacher_taps}
    assert first.teacher is not None or not needs.teacher
    told = [
        *first.teacher_features.values(),
        *([first.teacher] if first.teacher is not None else []),
    ]
    assert not any(signal.requires_grad for signal in told)


def test_the_same_training_twice_gives_the_same_bits(kit, method) -> None:
    one, two = (loop(kit, copy.deepcopy(method), shift=1).fit() for _ in range(2))
    assert kit.equal(one.student.state_dict(), two.student.state_dict())
    assert kit.untimed(one.history) == kit.untimed(two.history)
    assert one.figures == two.figures


def test_a_stopped_training_ends_with_the_same_bits(kit, tmp_path, method) -> None:
    whole = loop(kit, copy.deepcopy(method), shift=1, epochs=3).fit()

    class Stopped(Exception):
        pass

    def stop(done: int, total: int, note: str) -> None:
        if done == 6:
            raise Stopped

    scratch = tmp_path / "cut"
    with pytest.raises(Stopped):
        loop(kit, copy.deepcopy(method), shift=1, epochs=3, scratch=scratch, progress=stop).fit()
    torch.manual_seed(1)  # the state of the global generator is nobody's business
    resumed = loop(kit, copy.deepcopy(method), shift=1, epochs=3, scratch=scratch).fit()
    assert kit.equal(whole.student.state_dict(), resumed.student.state_dict())
    assert kit.untimed(whole.history) == kit.untimed(resumed.history)


def test_the_teacher_is_left_as_it_was(kit, method) -> None:
    teacher = kit.teacher().eval()
    before = kit.weights(teacher)
    source = kit.source(teacher, curve=CURVE, checkpoints=dict.fromkeys(range(1, 5), teacher))
    kit.loop(method, kit.model(), source).fit()
    assert kit.equal(before, kit.weights(teacher))
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None for p in teacher.parameters())


def test_the_finished_student_is_bare_and_is_what_was_validated(kit, method) -> None:
    training = loop(kit, method)
    result = training.fit()
    plain = kit.model(seed=4)
    wanted = {key: value.shape for key, value in plain.state_dict().items()}
    assert {key: value.shape for key, value in result.student.state_dict().items()} == wanted
    assert type(result.student) is type(plain)
    for module in result.student.modules():
        assert [k for k, v in vars(module).items() if k.endswith("_hooks") and v] == []
    validation = kit.split(30, seed=1)
    with torch.no_grad():
        answers = result.student(validation.inputs["image"]).argmax(1)
    accuracy = float((answers == validation.targets).float().mean())
    assert accuracy == pytest.approx(result.history[result.best]["validation_accuracy"])


def test_diagnostics_are_plain_numbers(kit, method) -> None:
    result = loop(kit, method).fit()
    json.dumps([record.get("method", {}) for record in result.history], allow_nan=False)
    for figure in result.figures:
        json.dumps([[list(x), list(y)] for x, y in figure.series.values()], allow_nan=False)
        assert figure.title
        assert all(len(x) == len(y) for x, y in figure.series.values())
