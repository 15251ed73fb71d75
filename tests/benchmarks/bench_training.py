"""What does our training loop cost, and what do stored signals save? Against hand-written loops.

    python tests/benchmarks/bench_training.py [--quick] [--epochs N] [--threads N]

All loops train the same student on the same split with the same optimiser, in interleaved epochs
of one process, so that a busy machine slows them alike; the ratios are those of the medians.

    plain     as people write it: a Dataset that shifts each sample, a DataLoader, AdamW, NCHW
    plain kd  the same with a live teacher, asked for every batch
    batched   as an expert writes it: tensors in memory, the whole batch shifted by one gather
    none      our loop, labels only, the same shift
    live      our loop, kd with a live teacher
    stored    our loop, kd with the signals of every view in the cache already
    teacher   the teacher's forward passes of one epoch alone, one batch at a time

Then ten epochs from an empty cache, set-up included (also with `cache_tolerance: 0.01`), and ten of
a second seed on the full cache, against ten of `plain kd` and of `none`, again in turn.
"""

from __future__ import annotations

import argparse
import copy
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as pipeline/threads.py does, before torch

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from edgedistill.pipeline.data.load import load_data
from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.methods.none import LabelsOnly
from edgedistill.pipeline.models.build import build_model
from edgedistill.pipeline.training.cache import CacheSettings
from edgedistill.pipeline.training.engine import TOLERANCE
from edgedistill.pipeline.training.loop import Loop, LoopSettings
from edgedistill.pipeline.training.signals import LiveTeacher, TeacherSource
from edgedistill.pipeline.training.tensors import SplitTensors

if TYPE_CHECKING:
    from edgedistill.pipeline.contracts import Method

SHIFT, BATCH, LR, WEIGHT_DECAY = 2, 64, 3e-3, 1e-4
SHAPE, CLASSES = (1, 28, 28), 10
Epoch = Callable[[], None]


class Shifted(Dataset):
    """Each image moved by up to two pixels, when it is asked for."""

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images = nn.functional.pad(images, (SHIFT,) * 4, mode="replicate")
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        top, left = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
        _, height, width = SHAPE
        view = self.images[index, :, top : top + height, left : left + width]
        return view, self.targets[index]


def digits() -> SplitTensors:
    """The training digits of mnist5k."""
    data = load_data({"source": "mnist5k"}, Path())
    images = torch.from_numpy(data.preprocessing.apply(data.train.inputs)["input"])
    return SplitTensors({"image": images}, torch.from_numpy(data.train.targets).long())


def network(model: str, width: int) -> nn.Module:
    """A built-in model with fresh weights."""
    torch.manual_seed(0)
    spec = {"model": model, "options": {"width": width}}
    return build_model(spec, CLASSES, {"image": SHAPE}, Path())


def plain(images: Tensor, targets: Tensor) -> Epoch:
    """The loop of most tutorials."""
    model = network("dscnn", 24)
    loader = DataLoader(Shifted(images, targets), BATCH, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY)

    def epoch() -> None:
        model.train()
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()

    return epoch


def plain_kd(images: Tensor, targets: Tensor, teacher: nn.Module) -> Epoch:
    """The loop of most tutorials on distillation: T = 4, a = 0.9."""
    model, teacher = network("dscnn", 24), copy.deepcopy(teacher).eval()
    loader = DataLoader(Shifted(images, targets), BATCH, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY)

    def epoch() -> None:
        model.train()
        total = 0.0
        for x, y in loader:
            with torch.no_grad():
                wanted = teacher(x)
            logits = model(x)
            soft = nn.functional.kl_div(
                nn.functional.log_softmax(logits / 4, 1),
                nn.functional.softmax(wanted / 4, 1),
                reduction="batchmean",
            )
            loss = 0.1 * nn.functional.cross_entropy(logits, y) + 0.9 * 16 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()

    return epoch


def batched(images: Tensor, targets: Tensor) -> Epoch:
    """No per-sample work, channels-last, fused optimiser: what is left is the network."""
    model = network("dscnn", 24).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY, fused=True)
    padded = nn.functional.pad(images, (SHIFT,) * 4, mode="replicate")[:, 0]
    side = torch.arange(SHAPE[1])

    def epoch() -> None:
        model.train()
        for index in torch.randperm(len(targets)).split(BATCH):
            offset = torch.randint(0, 2 * SHIFT + 1, (2, len(index), 1)) + side
            x = padded[index[:, None, None], offset[0][:, :, None], offset[1][:, None, :]]
            loss = nn.functional.cross_entropy(model(x[:, None]), targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def make_loop(
    method: Method, source: TeacherSource | None, split: SplitTensors, folder: Path, seed: int = 0
) -> Loop:
    """Our loop."""
    settings = LoopSettings(
        epochs=10_000, batch_size=BATCH, optimizer="adamw", lr=LR, weight_decay=WEIGHT_DECAY,
        schedule="cosine", warmup=0.1, seed=seed, shift=SHIFT, devices="cpu",
    )  # fmt: skip
    student = network("dscnn", 24)
    return Loop(method, student, source, split, split, settings, folder, lambda *_: None)


def epochs_of(loop: Loop) -> Epoch:
    """An epoch of our loop, without its validation: the hand loops have none."""

    def epoch() -> None:
        loop._train_epoch()
        if loop.teachers is not None:
            loop.teachers.flush()
        loop.state.epoch += 1

    return epoch


def kd() -> Method:
    return KnowledgeDistillation(KnowledgeDistillation.Options())


def none() -> Method:
    return LabelsOnly(LabelsOnly.Options())


def source_of(
    teacher: nn.Module, cache: Path | None, tolerance: float = TOLERANCE
) -> TeacherSource:
    """A teacher, live or stored below a folder."""
    settings = None if cache is None else CacheSettings(cache, 1e9, tolerance=tolerance)
    return TeacherSource(lambda _: copy.deepcopy(teacher), cache=settings)


def forwards(teacher: nn.Module, split: SplitTensors) -> Epoch:
    """The teacher's forward passes of one epoch, alone."""
    model = LiveTeacher(copy.deepcopy(teacher), torch.device("cpu"))

    def epoch() -> None:
        for inputs, _ in split.batches(BATCH):
            model.logits(inputs)

    return epoch


def measure(epochs: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    """Seconds of each epoch of every loop, one of each in turn; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(rounds + 1):
        for name, epoch in epochs.items():
            start = time.perf_counter()
            epoch()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def show(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Print the table; gives the medians."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'loop':10} {'median s':>9} {'min':>7} {'max':>7}  ratio to plain (min, max by round)")
    for name, values in seconds.items():
        rounds = [a / b for a, b in zip(values, seconds["plain"], strict=True)]
        print(
            f"{name:10} {medians[name]:9.3f} {min(values):7.3f} {max(values):7.3f}  "
            f"{medians[name] / medians['plain']:.3f} ({min(rounds):.3f}, {max(rounds):.3f})"
        )
    return medians


def judge(what: str, ratio: float, goal: float) -> None:
    """Print a ratio and whether it meets its goal."""
    print(f"{what}: {ratio:.3f}; goal at most {goal}: {'met' if ratio <= goal else 'MISSED'}")


def single_epochs(data: SplitTensors, teacher: nn.Module, folder: Path, rounds: int) -> None:
    """One epoch of every loop in turn."""
    images, targets = data.inputs["image"], data.targets
    full = make_loop(kd(), source_of(teacher, folder / "full"), data, folder)
    full.teachers._ask(None).fill()
    epochs = {
        "plain": plain(images, targets),
        "plain kd": plain_kd(images, targets, teacher),
        "batched": batched(images, targets),
        "none": epochs_of(make_loop(none(), None, data, folder)),
        "live": epochs_of(make_loop(kd(), source_of(teacher, None), data, folder)),
        "stored": epochs_of(full),
        "teacher": forwards(teacher, data),
    }
    median = show(measure(epochs, rounds))
    bound = 1 + median["teacher"] / median["none"]
    judge("none / plain", median["none"] / median["plain"], 0.95)
    judge("stored kd / none", median["stored"] / median["none"], 1.05)
    judge("stored kd / plain kd", median["stored"] / median["plain kd"], 0.46)
    live = median["live"] / median["none"]
    print(f"live kd / none: {live:.3f}; the bound, 1 + T/(3S) as measured here: {bound:.3f}")
    judge("live kd / bound", live / bound, 1.05)


def ten_epochs(data: SplitTensors, teacher: nn.Module, folder: Path) -> None:
    """Whole short trainings, their set-up counted, one epoch of each in turn."""
    makers = {
        "plain kd": lambda: plain_kd(data.inputs["image"], data.targets, teacher),
        "empty cache": lambda: epochs_of(
            make_loop(kd(), source_of(teacher, folder / "empty"), data, folder)
        ),
        "empty, 0.01": lambda: epochs_of(
            make_loop(kd(), source_of(teacher, folder / "empty", 0.01), data, folder)
        ),
        "full cache": lambda: epochs_of(
            make_loop(kd(), source_of(teacher, folder / "full"), data, folder, seed=1)
        ),
        "none": lambda: epochs_of(make_loop(none(), None, data, folder)),
    }
    total = dict.fromkeys(makers, 0.0)
    running: dict[str, Epoch] = {}
    for number in range(10):
        for name, make in makers.items():
            start = time.perf_counter()
            if not number:
                running[name] = make()
            running[name]()
            total[name] += time.perf_counter() - start
    print("ten epochs, s:", ", ".join(f"{name} {value:.1f}" for name, value in total.items()))
    judge("empty cache / plain kd", total["empty cache"] / total["plain kd"], 0.65)
    loose = total["empty, 0.01"] / total["plain kd"]
    judge("empty cache, cache_tolerance 0.01 / plain kd", loose, 0.65)
    judge("full cache / none", total["full cache"] / total["none"], 1.1)


def main() -> None:
    """Print the table, and whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15, help="timed epochs of each loop")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its default")
    parser.add_argument("--quick", action="store_true", help="three epochs")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    split, teacher = digits(), network("resnet20", 32)
    with tempfile.TemporaryDirectory() as folder:
        single_epochs(split, teacher, Path(folder), 3 if options.quick else options.epochs)
        ten_epochs(split, teacher, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"threads {torch.get_num_threads()}, torch {torch.__version__}, peak RSS {peak:.0f} MiB")


if __name__ == "__main__":
    main()
