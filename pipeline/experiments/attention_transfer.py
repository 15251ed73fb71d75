"""Does looking where the teacher looks help a small CNN that sees few images?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import torch

from ..contracts import Batch
from ..methods.attention_transfer import AttentionTransfer
from ..methods.kd import KnowledgeDistillation
from ..methods.none import LabelsOnly
from ..models.build import build_model
from ..training.taps import Tapped
from ..training.tensors import SplitTensors
from .arms import TEACHER_SEED, mean, percent, told
from .batched import cosine
from .contract import Arm, Check, Outcome, Table
from .digits import CLASSES, load_digits

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from ..contracts import Method, Tap

    Signals: TypeAlias = tuple[Tensor, dict[Tap, Tensor]]

LABELS, KD, BOTH, TEACHER = "labels", "kd", "attention and kd", "teacher"
MODEL, INPUT = "resnet8", "image"
TEACHER_LR = 5e-3


@dataclass(frozen=True)
class SmallDataAttention:
    """A narrow residual network learns from a few images; its teacher saw all of them.

    Attributes:
        images: that the student learns from.
        betas: weights of the attention term to try; the first is the method's default, the last
            stands beside kd.
        width: channels of the student's first stage.
        teacher_width: those of the teacher's.
        steps: of every student.
        teacher_steps: of the teachers before them.
        batch: samples a step of a student; a teacher has 64.
        lr: of every student.
    """

    claim: ClassVar[str] = (
        "CIFAR-10: attention transfer makes small students better than labels do, and adds to kd"
        " (Zagoruyko, Komodakis 2017; from memory). In a benchmark on CIFAR-100 (RepDistiller) it"
        " is 0.8 to 1.5 points better than labels within a family, and 5.2 worse from vgg13 to"
        " MobileNetV2"
    )
    setting: ClassVar[str] = (
        "100 of scikit-learn's digits, 8x8. Teacher: resnet8 of width 16, trained on all 1,078;"
        " students: resnet8 of width 4, AdamW, the same images, batches and first weights for every"
        " arm. Maps of the method's default pairs (middle, last), 4x4 and 2x2. Beta 1000 is the"
        " released code's, whose maps have 8x8 to 32x32 positions: with a mean over the positions"
        " it weighs each of ours 4 to 256 times as much, so smaller ones are tried too."
    )
    seeds: ClassVar[int] = 3

    images: int = 100
    betas: tuple[float, ...] = (1000.0, 100.0, 10.0)
    width: int = 4
    teacher_width: int = 16
    steps: int = 400
    teacher_steps: int = 150
    batch: int = 25
    lr: float = 1e-2

    def run(self, seeds: int, progress: Callable[[int, int, str], None]) -> Outcome:
        splits = load_digits()
        shares: dict[str, list[float]] = {}
        total = seeds * (self.teacher_steps + len(self.methods()) * self.steps)
        clock = _Clock(total, progress)
        for seed in range(seeds):
            teacher = self._teach_teacher(splits["train"], seed, clock)
            few = self._few(splits["train"], seed)
            shares.setdefault(TEACHER, []).append(_accuracy(teacher, splits["test"]))
            for name, method in self.methods().items():
                student = self._build(self.width, seed)
                told_by = _listen(teacher, method, few)
                run = Training(method, few, told_by, self.steps, self.batch, self.lr, seed)
                run.train(student, lambda step, name=name: clock.tick(name))  # type: ignore[misc]
                shares.setdefault(name, []).append(_accuracy(student, splits["test"]))
        return self._judge({name: percent(name, values) for name, values in shares.items()})

    def methods(self) -> dict[str, Method]:
        """Arms by name; kd, alone and beside attention, has its default options."""
        kd, transfer, none = KnowledgeDistillation, AttentionTransfer, LabelsOnly
        alone = {
            f"attention, beta {beta:g}": transfer(transfer.Options(beta=beta))
            for beta in self.betas
        }
        given, beta = kd.Options(), self.betas[-1]
        both = transfer.Options(beta=beta, temperature=given.temperature, alpha=given.alpha)
        return {LABELS: none(none.Options()), KD: kd(given), **alone, BOTH: transfer(both)}

    def _teach_teacher(self, train: SplitTensors, seed: int, clock: _Clock) -> nn.Module:
        own, method = TEACHER_SEED + seed, LabelsOnly(LabelsOnly.Options())
        network = self._build(self.teacher_width, own)
        run = Training(method, train, None, self.teacher_steps, 64, TEACHER_LR, own)
        run.train(network, lambda step: clock.tick(TEACHER))
        return network

    def _few(self, train: SplitTensors, seed: int) -> SplitTensors:
        """The images that the students of a seed see."""
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        rows = order[: self.images]
        (images,) = train.inputs.values()
        return SplitTensors({INPUT: images[rows]}, train.targets[rows])

    def _build(self, width: int, seed: int) -> nn.Module:
        """A network with fresh weights; leaves the global random numbers as they were."""
        spec = {"model": MODEL, "options": {"width": width, "stem_stride": 1}}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_model(spec, CLASSES, {INPUT: (1, 8, 8)}, Path())

    def _judge(self, arms: dict[str, Arm]) -> Outcome:
        default, gentle = (arms[f"attention, beta {b:g}"] for b in (self.betas[0], self.betas[-1]))
        alone, added = _gain(gentle, arms[LABELS]), _gain(arms[BOTH], arms[KD])
        tables = (
            Table("Accuracy of the student", "% of test digits", tuple(arms.values())),
            Table("What attention adds, seed by seed", "points", (alone, added)),
        )
        checks = (
            Check(
                "attention alone, at the smallest beta, is 1 point better than labels",
                mean(alone) >= 1.0,
                told([gentle, arms[LABELS]]),
            ),
            Check(
                "beside kd it adds 1 point",
                mean(added) >= 1.0,
                told([arms[BOTH], arms[KD]]),
            ),
            Check(
                "beta 1000 serves maps as small as these: it is not worse than labels",
                mean(default) >= mean(arms[LABELS]),
                told([default, arms[LABELS]]),
            ),
            Check(
                "attention alone is as good as kd alone, within 1 point",
                mean(gentle) >= mean(arms[KD]) - 1.0,
                told([gentle, arms[KD]]),
            ),
        )
        return Outcome(tables, checks)


@dataclass(frozen=True)
class Training:
    """One network, trained by a method.

    Attributes:
        method: gives the loss.
        split: what is learned from.
        signals: the teacher's, of every sample; None without a teacher.
        steps: how many.
        batch: samples of each.
        lr: at the start of a half cosine.
        seed: of the order of the samples.
    """

    method: Method
    split: SplitTensors
    signals: Signals | None
    steps: int
    batch: int
    lr: float
    seed: int

    def train(self, network: nn.Module, say: Callable[[int], None]) -> None:
        """Train in place; `say` is called after each step."""
        tapped = Tapped(network.train(), self.method.needs.student_taps, "student")
        parameters = network.parameters()
        optimizer = torch.optim.AdamW(parameters, self.lr, weight_decay=1e-4, fused=True)
        random = torch.Generator().manual_seed(self.seed)
        for step in range(self.steps):
            rows = torch.randint(len(self.split), (self.batch,), generator=random)
            optimizer.param_groups[0]["lr"] = self.lr * cosine(step, self.steps)
            loss = self.method.loss(self._batch(tapped, rows, step / self.steps), None)
            optimizer.zero_grad()
            torch.stack(list(loss.values())).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            say(step + 1)

    def _batch(self, tapped: Tapped, rows: Tensor, progress: float) -> Batch:
        needs = self.method.needs
        logits, features = tapped({name: x[rows] for name, x in self.split.inputs.items()})
        told, seen = self.signals or (None, {})
        return Batch(
            logits,
            told[rows] if told is not None and needs.teacher else None,
            self.split.targets[rows],
            epoch=0,
            progress=progress,
            index=rows,
            student_features=features,
            teacher_features={tap: feature[rows] for tap, feature in seen.items()},
        )


class _Clock:
    """Counts the steps of many trainings."""

    def __init__(self, total: int, progress: Callable[[int, int, str], None]) -> None:
        self.total, self.progress, self.done = total, progress, 0

    def tick(self, note: str) -> None:
        self.done += 1
        self.progress(self.done, self.total, note)


def _listen(teacher: nn.Module, method: Method, split: SplitTensors) -> Signals:
    """What a frozen teacher says of every sample."""
    tapped = Tapped(teacher.eval(), method.needs.teacher_taps, "teacher")
    with torch.no_grad():
        return tapped(split.inputs)


def _accuracy(network: nn.Module, split: SplitTensors) -> float:
    with torch.no_grad():
        answers = network.eval()(*split.inputs.values()).argmax(1)
    return float((answers == split.targets).float().mean())


def _gain(arm: Arm, over: Arm) -> Arm:
    pairs = zip(arm.values, over.values, strict=True)
    return Arm(f"{arm.name}, over {over.name}", tuple(a - b for a, b in pairs))
