"""What does an epoch of distillation cost in torchdistill, beside a hand-written loop and ours?

    pip install torchdistill
    python tests/benchmarks/bench_torchdistill.py [--epochs N] [--threads N]

torchdistill is not a dependency of this project: without it the script says so and exits 0. It
wants a torchvision built for the torch that is installed. All loops train the same student with the
same teacher, split, loss and optimiser, batches of 64, without validation, in interleaved epochs of
one process; the ratios are those of the medians. Ours and the plain one are `bench_training.py`'s.

    plain kd   a hand-written loop with a live teacher, in eval mode
    td         torchdistill's box and the loop of its image classification example: the teacher is
               handed over as it was built, and the box leaves its mode as it is
    td, eval   the same, but the teacher was put into eval mode before: what plain kd computes
    live       our loop, kd with a live teacher
    stored     our loop, kd with the signals of every view in the cache already
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import statistics
import tempfile
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as pipeline/threads.py does, before torch

import bench_training as bench
import torch
from torch import nn
from torch.utils.data import RandomSampler

if TYPE_CHECKING:
    from torchdistill.core.distillation import DistillationBox

    from edgedistill.pipeline.training.tensors import SplitTensors

LOG_FREQ = 100  # as in torchdistill's CIFAR-10 configurations
CPU = torch.device("cpu")


def obstacle() -> Exception | None:
    """Why torchdistill cannot be imported; a torchvision of another torch is a RuntimeError."""
    try:
        import_module("torchdistill.core.distillation")
    except (ImportError, RuntimeError) as error:
        return error
    return None


def configuration() -> dict[str, Any]:
    """What the `train` section of a torchdistill YAML file says: the loss of `plain kd`."""
    logits = {
        "student_module_path": ".", "student_module_io": "output",
        "teacher_module_path": ".", "teacher_module_io": "output",
    }  # fmt: skip
    weights = {"temperature": 4.0, "alpha": 0.1, "reduction": "batchmean"}  # alpha is the labels'
    loss = {"criterion": {"key": "KDLoss", "kwargs": logits | weights}, "weight": 1.0}
    optimizer = {"lr": bench.LR, "weight_decay": bench.WEIGHT_DECAY}
    return {
        "num_epochs": 10_000,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": None},
            "kwargs": {"batch_size": bench.BATCH},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {"key": "AdamW", "kwargs": optimizer},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": loss}}},
    }


def make_box(data: SplitTensors, teacher: nn.Module) -> DistillationBox:
    """A box of torchdistill, with the student of the other loops."""
    from torchdistill.core.distillation import get_distillation_box

    datasets = {"train": bench.Shifted(data.inputs["image"], data.targets)}
    models = copy.deepcopy(teacher), bench.network("dscnn", 24)
    return get_distillation_box(*models, datasets, configuration(), CPU, None, False, 1)


def train_one_epoch(box: DistillationBox, number: int) -> None:
    """The steps of torchdistill's examples/torchvision/image_classification.py, its meters too."""
    from torchdistill.misc.log import MetricLogger, SmoothedValue

    log = MetricLogger(delimiter="  ")
    log.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
    log.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
    for x, y, supp_dict in log.log_every(box.train_data_loader, LOG_FREQ, f"Epoch: [{number}]"):
        start = time.time()
        x, y = x.to(CPU), y.to(CPU)
        loss = box.forward_process(x, y, supp_dict)
        box.post_forward_process(loss=loss)
        log.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
        log.meters["img/s"].update(len(x) / (time.time() - start))
        if torch.isnan(loss) or torch.isinf(loss):
            raise ValueError(f"the loss is {loss}")


def epochs_of_box(box: DistillationBox) -> bench.Epoch:
    """An epoch of torchdistill, with its processes before and after."""
    numbers = itertools.count()

    def epoch() -> None:
        number = next(numbers)
        box.pre_epoch_process(epoch=number)
        train_one_epoch(box, number)
        box.post_epoch_process()

    return epoch


def compare(data: SplitTensors, teacher: nn.Module, folder: Path, rounds: int) -> None:
    """One epoch of every loop in turn, then the ratios and the modes of torchdistill's teachers."""
    live = bench.make_loop(bench.kd(), bench.source_of(teacher, None), data, folder)
    full = bench.make_loop(bench.kd(), bench.source_of(teacher, folder / "full"), data, folder)
    full.teachers._ask(None).fill()
    hand = bench.plain_kd(data.inputs["image"], data.targets, teacher)
    others = {"plain kd": hand, "live": bench.epochs_of(live), "stored": bench.epochs_of(full)}
    still = copy.deepcopy(teacher).eval()
    boxes = {"td": make_box(data, teacher), "td, eval": make_box(data, still)}
    epochs = others | {name: epochs_of_box(box) for name, box in boxes.items()}
    seconds = bench.measure(epochs, rounds)
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"{name:9} {middle:.3f} s ({min(values):.3f} to {max(values):.3f})")
    for name, box in boxes.items():
        print(f"{name}: teacher in {'train' if box.teacher_model.training else 'eval'} mode")
        for other in others:
            show_ratio(seconds, name, other)


def show_ratio(seconds: dict[str, list[float]], name: str, other: str) -> None:
    """Print one ratio of medians, with the spread of the rounds."""
    rounds = [a / b for a, b in zip(seconds[name], seconds[other], strict=True)]
    ratio = statistics.median(seconds[name]) / statistics.median(seconds[other])
    print(f"{name} / {other}: {ratio:.3f} (by round {min(rounds):.3f} to {max(rounds):.3f})")


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15, help="timed epochs of each loop")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its default")
    options = parser.parse_args()
    if (why := obstacle()) is not None:
        print(f"no torchdistill ({why}): pip install torchdistill (and torchvision for this torch)")
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        compare(bench.digits(), bench.network("resnet20", 32), Path(folder), options.epochs)
    threads, installed = torch.get_num_threads(), version("torchdistill")
    print(f"threads {threads}, torch {torch.__version__}, torchdistill {installed}")


if __name__ == "__main__":
    main()
