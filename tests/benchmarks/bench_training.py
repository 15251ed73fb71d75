"""What does our training loop cost? Our epochs against hand-written PyTorch loops.

    python tests/benchmarks/bench_training.py [--quick] [--epochs N] [--threads N]

All loops train the same student on the same split with the same optimiser, in interleaved epochs
of one process, so that a busy machine slows them alike; the ratios are those of the medians.

    plain     as people write it: a Dataset that shifts each sample, a DataLoader, AdamW, NCHW
    batched   as an expert writes it: tensors in memory, the whole batch shifted by one gather
    none      our loop, labels only, the same shift
    kd        our loop with a live teacher, and what the extra forward pass alone would cost
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from edgedistill.pipeline.data.load import load_data
from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.methods.none import LabelsOnly
from edgedistill.pipeline.models.build import build_model
from edgedistill.pipeline.training.loop import Loop, LoopSettings
from edgedistill.pipeline.training.signals import LiveTeacher
from edgedistill.pipeline.training.tensors import SplitTensors

if TYPE_CHECKING:
    from edgedistill.pipeline.contracts import Method

SHIFT, BATCH, LR, WEIGHT_DECAY = 2, 64, 3e-3, 1e-4
SHAPE, CLASSES = (1, 28, 28), 10
GOAL = 0.95
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


def ours(method: Method, teacher: nn.Module | None, split: SplitTensors, folder: Path) -> Epoch:
    """An epoch of our loop, without its validation: the hand loops have none."""
    settings = LoopSettings(
        epochs=10_000, batch_size=BATCH, optimizer="adamw", lr=LR, weight_decay=WEIGHT_DECAY,
        schedule="cosine", warmup=0.1, seed=0, shift=SHIFT, devices="cpu",
    )  # fmt: skip
    ask = None if teacher is None else lambda device: LiveTeacher(teacher, device)
    loop = Loop(method, network("dscnn", 24), ask, split, split, settings, folder, lambda *_: None)

    def epoch() -> None:
        loop._train_epoch()
        loop.state.epoch += 1

    return epoch


def forwards(teacher: nn.Module, split: SplitTensors) -> Epoch:
    """The teacher's forward passes of one epoch, alone."""
    model = LiveTeacher(teacher, torch.device("cpu"))

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


def show(seconds: dict[str, list[float]]) -> float:
    """Print the table; gives our ratio to the plain loop."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'loop':10} {'median s':>9} {'min':>7} {'max':>7}  ratio to plain (min, max by round)")
    for name, values in seconds.items():
        rounds = [a / b for a, b in zip(values, seconds["plain"], strict=True)]
        print(
            f"{name:10} {medians[name]:9.3f} {min(values):7.3f} {max(values):7.3f}  "
            f"{medians[name] / medians['plain']:.3f} ({min(rounds):.3f}, {max(rounds):.3f})"
        )
    bound = medians["none"] + medians["teacher"]
    print(f"kd / none           {medians['kd'] / medians['none']:.3f}")
    print(f"kd / (none + teacher's forward passes) {medians['kd'] / bound:.3f}; the bound is 1")
    return medians["none"] / medians["plain"]


def main() -> None:
    """Print the table, and whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15, help="timed epochs of each loop")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its default")
    parser.add_argument("--quick", action="store_true", help="three epochs")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    data = load_data({"source": "mnist5k"}, Path())
    images = torch.from_numpy(data.preprocessing.apply(data.train.inputs)["input"])
    targets = torch.from_numpy(data.train.targets).long()
    split, teacher = SplitTensors({"image": images}, targets), network("resnet8", 16)
    labels = LabelsOnly(LabelsOnly.Options())
    soft = KnowledgeDistillation(KnowledgeDistillation.Options())
    with tempfile.TemporaryDirectory() as folder:
        epochs = {
            "plain": plain(images, targets),
            "none": ours(labels, None, split, Path(folder)),
            "batched": batched(images, targets),
            "kd": ours(soft, teacher, split, Path(folder)),
            "teacher": forwards(teacher, split),
        }
        ratio = show(measure(epochs, 3 if options.quick else options.epochs))
    verdict = "met" if ratio <= GOAL else "MISSED"
    print(f"goal: none / plain <= {GOAL}: {ratio:.3f}, {verdict}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"threads {torch.get_num_threads()}, torch {torch.__version__}, peak RSS {peak:.0f} MiB")


if __name__ == "__main__":
    main()
