"""Stored signals: losses cannot tell them from live ones, and a stale one is refused."""

from __future__ import annotations

import json

import numpy as np
import openvino
import pytest
import torch
from torch import nn

from edgedistill.pipeline.contracts import Tap
from edgedistill.pipeline.errors import TrainingError
from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.models.build import build_model
from edgedistill.pipeline.training import engine
from edgedistill.pipeline.training.cache import (
    CacheSettings,
    SignalTable,
    check_room,
    table_bytes,
)
from edgedistill.pipeline.training.codec import Codec, spread_tail
from edgedistill.pipeline.training.engine import BATCH, OpenVinoEngine, TorchEngine, agree, fastest
from edgedistill.pipeline.training.signals import LiveTeacher, Signals
from edgedistill.pipeline.training.stored import StoredTeacher
from edgedistill.pipeline.training.views import Views

CPU = torch.device("cpu")
TAPS = (Tap("stage1"), Tap("middle", "pooled"), Tap("stage2", "attention"))


class Counting(nn.Module):
    """Counts the samples that the network inside is asked for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.asked = inner, 0
        self.taps = inner.taps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        return self.inner(x)

    def forward_with_taps(self, x, names):
        self.asked += len(x)
        return self.inner.forward_with_taps(x, names)


def views(kit, shift=1, flip=True, replays=0, count=40) -> Views:
    return Views(kit.split(count), 16, shift, flip, seed=3, replays=replays)


def stored(kit, teacher=None, taps=TAPS, settings=None, key="teacher", **kind) -> StoredTeacher:
    settings = settings or CacheSettings(kit.root / "signals", 1e9)
    live = LiveTeacher(teacher or kit.teacher(), CPU, taps)
    return StoredTeacher(live, views(kit, **kind), settings, key)


def test_stored_signals_are_the_live_ones_of_every_view(kit) -> None:
    live, table = LiveTeacher(kit.teacher(), CPU, TAPS), stored(kit)
    for epoch in range(3):
        for view in table.views.epoch(epoch):
            wanted, got = live.signals(view, view.inputs), table.signals(view, view.inputs)
            assert got.logits.dtype == wanted.logits.dtype == torch.float32
            assert got.features.keys() == wanted.features.keys() == set(TAPS)
            torch.testing.assert_close(got.logits, wanted.logits, rtol=1e-3, atol=1e-3)
            for tap in TAPS:
                assert got.features[tap].shape == wanted.features[tap].shape
                torch.testing.assert_close(
                    got.features[tap], wanted.features[tap], rtol=1e-3, atol=1e-3
                )


def test_a_teacher_is_asked_once_for_each_view(kit) -> None:
    teacher = Counting(kit.teacher())
    table = stored(kit, teacher, shift=0)  # two views: as they are, and mirrored
    assert table.engine.name == "torch"  # so little is not worth compiling
    start = teacher.asked
    for epoch in range(12):
        steps = table.views.steps(epoch)
        table.expect(steps)
        for index, code in steps:
            view = table.views.view(index, code)
            table.signals(view, view.inputs)
    assert table.table.filled.all()
    assert teacher.asked - start == 2 * 40


def test_it_is_shared_by_seeds_and_trainings_and_outlives_them(kit) -> None:
    teacher = Counting(kit.teacher())
    first = stored(kit, teacher)
    first.fill()
    asked = teacher.asked
    again = stored(kit, teacher)
    checked = teacher.asked - asked
    for view in again.views.epoch(5):
        again.signals(view, view.inputs)
    assert teacher.asked - asked == checked  # looking at an example and at a hundredth of the old
    assert checked <= 64 + 64 + np.ceil(0.01 * 40 * 18)
    assert again.table.folder == first.table.folder


def test_what_was_not_flushed_is_not_there(kit) -> None:
    first = stored(kit)
    view = next(first.views.epoch(0))
    first.signals(view, view.inputs)
    assert first.table.filled.any()
    assert not stored(kit).table.filled.any()
    first.flush()
    assert (stored(kit).table.filled == first.table.filled).all()


@pytest.mark.parametrize("change", ["key", "shift", "flip", "taps", "top"])
def test_every_part_of_the_key_counts(kit, change) -> None:
    top = CacheSettings(kit.root / "signals", 1e9, 2)
    other = {
        "key": {"key": "another"}, "shift": {"shift": 2}, "flip": {"flip": False},
        "taps": {"taps": TAPS[:1]}, "top": {"settings": top},
    }[change]  # fmt: skip
    assert stored(kit).table.folder != stored(kit, **other).table.folder


def test_a_stale_cache_is_refused_by_the_replay_check(kit) -> None:
    stored(kit).fill()
    other = kit.teacher()
    other.head[2].bias.data += torch.tensor([0.5, 0.0, 0.0])
    with pytest.raises(TrainingError, match="stale") as caught:
        stored(kit, other)  # another teacher under the same key
    assert "remove that folder" in caught.value.hint


def test_each_opening_looks_at_other_views(kit) -> None:
    table = stored(kit, taps=())
    table.fill()
    table.table.arrays["logits"][::2] += 1.0  # half of it is wrong
    table.flush()

    def open_often() -> None:
        for _ in range(40):
            stored(kit, taps=())

    with pytest.raises(TrainingError, match="stale"):
        open_often()


def test_small_features_are_told_from_nothing(kit) -> None:
    taps = (Tap("stage1", "attention"),)
    teacher = kit.teacher()
    last = [m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in last:
        norm.weight.data *= 1e-3
        norm.bias.data *= 1e-3
    live, table = LiveTeacher(teacher, CPU, taps), stored(kit, teacher, taps=taps)
    view = next(table.views.epoch(0))
    wanted = live.signals(view, view.inputs).features[taps[0]]
    got = table.signals(view, view.inputs).features[taps[0]]
    assert 0 < wanted.median() < 2e-6  # fp16 would tell little of it: it steps by 6e-8
    torch.testing.assert_close(got, wanted, rtol=2e-3, atol=float(wanted.max()) * 1e-3)


def test_a_head_that_nobody_asks_may_say_anything(kit) -> None:
    teacher = kit.teacher()
    teacher.head[2].bias.data += 1e6  # beyond fp16
    live = LiveTeacher(teacher, CPU, TAPS)
    table = StoredTeacher(live, views(kit), CacheSettings(kit.root, 1e9), "teacher", logits=False)
    view = next(table.views.epoch(0))
    got = table.signals(view, view.inputs)
    assert got.logits.shape == (len(view.index), 0)
    assert got.features.keys() == set(TAPS)
    assert "logits" not in table.table.arrays


def test_a_file_of_another_size_is_refused(kit) -> None:
    table = stored(kit).table
    file = table.folder / "logits.float16"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(TrainingError, match="stale"):
        stored(kit)


def test_more_than_the_limit_is_refused_before_anything_is_made(kit) -> None:
    told = []
    settings = CacheSettings(kit.root / "signals", 4000, tell=told.append)
    with pytest.raises(TrainingError, match=r"train\.cache_limit is 4\.0 kB") as caught:
        stored(kit, taps=(), settings=settings)
    assert "train.cache: off" in caught.value.hint
    assert "train.cache: replay" in caught.value.hint
    assert told == ["teacher signals of every view: up to 4.4 kB"]
    assert not (kit.root / "signals").exists()


def test_more_than_the_disk_is_refused(kit) -> None:
    settings = CacheSettings(kit.root / "signals", 1e18)
    big = {"logits": ("float16", (10**6,))}
    size = table_bytes((10**6, 100), big)
    assert size == 100 * 10**6 * (2 * 10**6) + 100 * 10**6 // 8
    with pytest.raises(TrainingError, match="the disk of"):
        check_room(kit.root / "signals" / "x", size, settings)


def test_a_cache_takes_no_room_until_it_is_filled(kit) -> None:
    table = SignalTable(kit.root / "t", (1000, 100), {"logits": ("float16", (10,))})
    file = table.folder / "logits.float16"
    assert file.stat().st_size == 2_000_000
    assert file.stat().st_blocks * 512 < 100_000


def test_two_processes_fill_one_cache(kit) -> None:
    one, two = (SignalTable(kit.root / "t", (4, 2), {"logits": ("float16", (3,))}) for _ in "ab")
    one.write(np.array([0]), np.array([1]), {"logits": np.ones((1, 3))})
    two.write(np.array([2]), np.array([0]), {"logits": np.full((1, 3), 2.0)})
    one.flush()
    two.flush()
    both = SignalTable(kit.root / "t", (4, 2), {"logits": ("float16", (3,))})
    assert np.argwhere(both.filled).tolist() == [[0, 1], [2, 0]]
    assert both.read(np.array([0, 2]), np.array([1, 0]))["logits"].tolist() == [[1] * 3, [2] * 3]


def test_what_fp16_cannot_hold_is_refused() -> None:
    with pytest.raises(TrainingError, match="65504"):
        Codec((), 2).encode(Signals(torch.tensor([[1e5, 0.0]])))


def test_the_top_logits_and_the_rule_of_the_tail() -> None:
    logits = torch.randn((50, 20), generator=torch.Generator().manual_seed(0)) * 3
    codec = Codec((), 20, top=4)
    coded = codec.encode(Signals(logits))
    assert {k: v.shape for k, v in coded.items()} == {"top": (50, 5), "top-class": (50, 4)}
    got, wanted = codec.decode(coded).logits.exp(), logits.softmax(1)
    torch.testing.assert_close(got.sum(1), torch.ones(50), rtol=0, atol=2e-3)
    best = wanted.topk(4, dim=1)
    torch.testing.assert_close(got.gather(1, best.indices), best.values, rtol=5e-3, atol=1e-4)
    rest = (1 - best.values.sum(1, keepdim=True)) / 16
    others = got.scatter(1, best.indices, rest.expand(-1, 4))
    torch.testing.assert_close(others, rest.expand(-1, 20), rtol=2e-2, atol=1e-4)


def test_as_many_top_logits_as_classes_are_all_of_them() -> None:
    signals = Signals(torch.tensor([[1.0, -2.0, 0.5]]))
    for top in (3, 5):
        codec = Codec((), 3, top)
        assert torch.equal(codec.decode(codec.encode(signals)).logits, signals.logits)


def test_a_class_of_no_probability_can_be_stored() -> None:
    best = torch.tensor([[0.0, -1e4]])
    assert spread_tail(best, torch.tensor([[1]]), 3).exp().tolist() == [[0.0, 1.0, 0.0]]
    coded = Codec((), 3, 1).encode(Signals(torch.tensor([[0.0, 1e6, 0.0]])))
    assert np.isfinite(coded["top"]).all()


def test_replayed_views_are_few_the_same_for_every_seed_and_all_used(kit) -> None:
    split = kit.split(200)
    one, two = (Views(split, 200, 2, True, seed, replays=3) for seed in (0, 1))
    assert one.count == two.count == 3
    everything = torch.arange(200)
    drawn = [one._drawn(everything, torch.full((200,), slot)) for slot in range(3)]
    assert all(len(d.unique()) > 35 for d in drawn)  # of 50 views
    for epoch in range(4):
        (a,), (b,) = list(one.epoch(epoch)), list(two.epoch(epoch))
        back_a, back_b = a.index.argsort(), b.index.argsort()
        assert torch.equal(a.inputs["image"][back_a], b.inputs["image"][back_b])
        assert not torch.equal(a.index, b.index)
        assert set(a.code.tolist()) == {epoch % 3}


def test_a_training_on_stored_signals_is_one_on_live_signals(kit) -> None:
    """With what fp16 rounds away put aside: the teacher's logits are exact in it."""

    class Exact(nn.Module):
        def __init__(self, inner) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x).half().float().mul(8).round().div(8)

    teacher, results = Exact(kit.teacher()), []
    for source in (kit.source(teacher), kit.source(teacher, stored=True)):
        loop = kit.loop(kit.kd(), kit.model(seed=1), source, shift=1, flip=True, epochs=3)
        results.append(loop.fit())
    live, cached = results
    assert kit.equal(live.student.state_dict(), cached.student.state_dict())
    assert kit.untimed(live.history) == kit.untimed(cached.history)


def test_a_training_on_replayed_top_logits_learns(kit) -> None:
    source = kit.source(kit.teacher(), stored=True, top=2)
    loop = kit.loop(kit.kd(), kit.model(), source, shift=1, replays=2, epochs=3)
    history = loop.fit().history
    assert history[-1]["loss"]["total"] < history[0]["loss"]["total"]
    about = [json.loads(f.read_text()) for f in (kit.root / "signals").glob("*/about.json")]
    assert [a["rows"] for a in about] == [[56, 2]]


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2", "mlp", "transformer"])
def test_openvino_computes_what_torch_computes(kit, name) -> None:
    options = {"transformer": {"width": 8, "heads": 2, "depth": 2}}.get(name, {"width": 8})
    taps = (Tap("first"), Tap("last", "pooled"))
    live = LiveTeacher(kit.model(name, seed=2, **options), CPU, taps)
    example = {"image": torch.randn(64, *kit.shape)}
    compiled, torch_engine = OpenVinoEngine(live, example), TorchEngine(live)
    for count in (1, BATCH, BATCH + 3):
        inputs = {"image": torch.randn(count, *kit.shape)}
        wanted, got = torch_engine.compute(inputs), compiled.compute(inputs)
        assert got.logits.shape == wanted.logits.shape == (count, kit.classes)
        assert agree(wanted, got)


@pytest.mark.parametrize(("tolerance", "precision"), [(1e-3, "f32"), (0.05, "bf16")])
def test_bf16_is_used_where_the_tolerance_and_the_cpu_allow_it(
    kit, monkeypatch, tolerance, precision
) -> None:
    capable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    monkeypatch.setattr(engine, "WORTH_COMPILING", 0.0)
    live, example = LiveTeacher(kit.teacher(), CPU), views(kit).inputs(*views(kit).steps(0)[0])
    chosen = fastest(live, example, 1, tolerance)
    assert chosen.name == f"openvino {precision if 'BF16' in capable else 'f32'}"
    assert agree(live.compute(example), chosen.compute(example), tolerance)


def test_a_compiled_teacher_that_disagrees_is_not_used(kit, monkeypatch) -> None:
    class Frozen(nn.Module):
        """Its answer hangs on a value that tracing writes down once."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 3)

        def forward(self, x):
            scale = float(x.abs().max())
            return self.fc(x.flatten(1)) * scale

    monkeypatch.setattr(engine, "WORTH_COMPILING", 0.0)
    example = {"image": torch.randn(64, *kit.shape) * torch.arange(1.0, 65).reshape(-1, 1, 1, 1)}
    assert fastest(LiveTeacher(Frozen(), CPU), example, 1).name == "torch"
    assert fastest(LiveTeacher(kit.teacher(), CPU), example, 1).name == "openvino f32"


def test_small_work_is_not_worth_compiling(kit) -> None:
    example = {"image": torch.randn(64, *kit.shape)}
    assert fastest(LiveTeacher(kit.teacher(), CPU), example, 100).name == "torch"


def test_operations_are_those_of_the_layers(kit) -> None:
    network = build_model(
        {"model": "mlp", "options": {"width": 16, "depth": 1}}, 3, {"image": kit.shape}, kit.root
    )
    live = LiveTeacher(network, CPU)
    assert engine.operations(live, {"image": torch.randn(8, *kit.shape)}) == 2 * (64 * 16 + 16 * 3)


def test_kd_takes_its_teacher_from_either(kit) -> None:
    """The one thing that a method sees is the batch."""
    seen = []

    class Watching(KnowledgeDistillation):
        def loss(self, batch, helpers):
            seen.append((type(batch.teacher), batch.teacher.dtype, batch.teacher.requires_grad))
            return super().loss(batch, helpers)

    for stored_ in (False, True):
        kit.loop(
            Watching(KnowledgeDistillation.Options()), teacher=kit.source(kit.teacher(), stored_),
            epochs=1,
        ).fit()  # fmt: skip
    assert set(seen) == {(torch.Tensor, torch.float32, False)}
