"""Does looking where the teacher looks help a small CNN that sees few images?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from ..contracts import Batch
from ..methods.attention_transfer import AttentionTransfer
from ..methods.kd import KnowledgeDistillation
from ..methods.none import LabelsOnly
from ..models.build import build_model
from ..training.taps import Tapped
from .arms import mean, percent, told
from .batched import cosine
from .contract import Arm, Check, Outcome, Table
from .digits import CLASSES, load_digits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from ..contracts import Method
    from ..training.tensors import SplitTensors

LABELS, KD, AT, BOTH, TEACHER = "labels", "kd", "attention", "attention and kd", "teacher"
SHAPE = (1, 8, 8)


@dataclass(frozen=True)
class SmallDataAttention:
    claim: ClassVar[str] = ""
    setting: ClassVar[str] = ""
    seeds: ClassVar[int] = 3

    images: int = 100
    students: tuple[str, ...] = ("resnet8", "dscnn")
    width: int = 4
    teacher_width: int = 16
    steps: int = 300
    teacher_steps: int = 200
    batch: int = 25
    lr: float = 5e-3
    beta: float = 1000.

    def run(self, seeds: int, progress: Callable[[int, int, str], None]) -> Outcome:
        splits = load_digits()
        train, test = splits["train"], splits["test"]
        scores = {}
        for seed in range(seeds):
            import time
            t=time.time()
            teacher = self.train(LabelsOnly(LabelsOnly.Options()), self.build("resnet8", self.teacher_width, 1000+seed), None, train, torch.arange(len(train)), self.teacher_steps, seed, 64)
            print('teacher', time.time()-t)
            scores.setdefault((TEACHER,''), []).append(self.acc(teacher, test))
            rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:self.images]
            for name in self.students:
                for arm, m in self.methods().items():
                    t=time.time()
                    st = self.train(m, self.build(name, self.width, seed), teacher, train, rows, self.steps, seed, self.batch)
                    scores.setdefault((name, arm), []).append(self.acc(st, test))
                    print(name, arm, scores[name,arm][-1], time.time()-t)
        arms = [percent(' '.join(k), v) for k, v in scores.items()]
        return Outcome((Table("acc", "%", tuple(arms)),), ())

    def methods(self):
        at = AttentionTransfer
        return {LABELS: LabelsOnly(LabelsOnly.Options()), KD: KnowledgeDistillation(KnowledgeDistillation.Options()),
            AT: at(at.Options(beta=self.beta)), BOTH: at(at.Options(alpha=.9,beta=self.beta))}

    def build(self, name, width, seed):
        torch.manual_seed(seed)
        return build_model({"model": name, "options": {"width": width, "stem_stride": 1}}, CLASSES, {"image": SHAPE}, Path())

    def acc(self, model, split):
        with torch.no_grad():
            return float((model.eval()(*split.inputs.values()).argmax(1) == split.targets).float().mean())

    def train(self, method, model, teacher, split, rows, steps, seed, batch):
        needs = method.needs
        x, y = next(iter(split.inputs.values()))[rows], split.targets[rows]
        if teacher is not None:
            with torch.no_grad():
                tl, tf = Tapped(teacher.eval(), needs.teacher_taps, "teacher")({"image": x})
        st = Tapped(model.train(), needs.student_taps, "student")
        opt = torch.optim.AdamW(model.parameters(), self.lr, weight_decay=1e-4, fused=True)
        g = torch.Generator().manual_seed(seed)
        for step in range(steps):
            i = torch.randint(len(rows), (batch,), generator=g)
            for gr in opt.param_groups: gr["lr"] = self.lr * cosine(step, steps)
            z, f = st({"image": x[i]})
            b = Batch(z, tl[i] if needs.teacher else None, y[i], 0, step/steps, i, f, {t: v[i] for t, v in tf.items()} if teacher is not None else {})
            loss = torch.stack(list(method.loss(b, None).values())).sum()
            opt.zero_grad(); loss.backward(); opt.step()
        return model
