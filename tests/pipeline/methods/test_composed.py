"""Methods as one: each changes what it says it changes, and nothing else."""

from __future__ import annotations

import pytest
import torch

from edgedistill.pipeline import plugins
from edgedistill.pipeline.contracts import CurvePoint, Needs
from edgedistill.pipeline.methods.composed import Composed, faults

CURVE = tuple(CurvePoint(e, a, 2 - a, True) for e, a in ((1, 0.3), (2, 0.9), (3, 0.95)))


def make(name: str, **options):
    kind = plugins.method(name)
    return kind(kind.Options(**options))


def fit(kit, method, **changes):
    models = {point.epoch: kit.model("resnet8", seed=point.epoch) for point in CURVE}
    source = kit.source(kit.teacher(), curve=CURVE, checkpoints=models)
    return kit.loop(method, kit.model(seed=4), source, **{"epochs": 3, "shift": 1, **changes}).fit()


def same(kit, one, two) -> bool:
    return kit.equal(one.student.state_dict(), two.student.state_dict())


@pytest.mark.parametrize(
    ("name", "neutral", "active"),
    [
        ("paced", {"alpha": 0, "beta": 0, "floor": 0}, {"floor": 0, "warmup_epochs": 0}),
        ("progressive", {"course": "one-shot"}, {"course": "time-matched"}),
        ("gap-preserving", {"ratio": 1, "branches": 1, "lambda_dt": 0, "lambda_static": 0}, {}),
    ],
)
def test_a_neutral_companion_changes_no_bit_and_an_active_one_does(kit, name, neutral, active):
    alone = fit(kit, make("kd"))
    assert same(kit, alone, fit(kit, Composed(make("kd"), [make(name, **neutral)])))
    assert not same(kit, alone, fit(kit, Composed(make("kd"), [make(name, **active)])))


def test_a_probe_takes_the_place_of_the_teachers_head(kit) -> None:
    composed = Composed(make("kd"), [make("intermediate-probes")])
    assert not composed.needs.teacher
    trained = []
    for factor in (1.0, -3.0):
        teacher = kit.teacher()
        teacher.head[2].weight.data *= factor
        loop = kit.loop(composed, kit.model(seed=4), kit.source(teacher), epochs=2)
        trained.append(loop.fit())
    assert same(kit, *trained)
    assert not same(kit, trained[0], fit(kit, make("kd"), epochs=2, shift=0))


def test_three_at_once_train_and_leave_a_bare_student(kit) -> None:
    others = [make("paced"), make("progressive"), make("gap-preserving")]
    result = fit(kit, Composed(make("kd"), others))
    assert result.student.state_dict().keys() == kit.model().state_dict().keys()
    first = result.history[0]
    assert any(name.startswith("gap-preserving: ") for name in first["loss"])
    assert {name.partition(":")[0] for name in first["method"]} >= {"paced", "progressive"}


def test_needs_are_those_of_all() -> None:
    composed = Composed(make("kd", alpha=1), [make("paced"), make("progressive")])
    assert composed.needs == Needs(labels=True, teacher=True, checkpoints=True)


def test_helpers_are_kept_apart(kit) -> None:
    composed = Composed(make("fitnets"), [make("paced")])
    source = kit.source(kit.teacher())
    loop = kit.loop(composed, kit.model("resnet8", seed=4, width=8), source)
    names = {key.partition(".")[0] for key in loop.trainable.helpers.state_dict()}
    assert names == {"fitnets", "paced"}
    assert torch.isfinite(torch.tensor(loop.fit().history[-1]["loss"]["total"]))


def test_what_cannot_be_composed_is_told() -> None:
    kinds = {name: plugins.method(name) for name in plugins.names("methods")}
    assert faults(kinds["kd"], [kinds["paced"], kinds["progressive"]]) == []
    (fault,) = faults(kinds["kd"], [kinds["fitnets"]])
    assert fault == "fitnets cannot stand under `with`: it changes nothing for others"
    (fault,) = faults(kinds["kd"], [kinds["paced"], kinds["paced"]])
    assert fault == "paced and paced both change the weights"
    (fault,) = faults(kinds["none"], [kinds["paced"]])
    assert fault == "none takes no weights, which paced would change"
    (fault,) = faults(kinds["kd"], [kinds["progressive"], kinds["intermediate-probes"]])
    assert "its probes are fitted to the final teacher" in fault
