"""Does the memory of a training grow with its data? Peaks for 5,000 and 50,000 samples.

    python tests/benchmarks/bench_memory.py [--samples N ...]

Each size trains in a process of its own: one epoch of `kd` from an empty cache, with shifts, on
images that lie in a mapped file, as a data artefact has them. Told are the peak of what is the
process's own (RssAnon, read every 20 ms) and the peak of all that was resident (ru_maxrss), which
counts pages of mapped files too: the kernel takes those back when somebody needs the room.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as pipeline/threads.py does, before torch

import numpy as np
import torch

from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.models.build import build_model
from edgedistill.pipeline.training.cache import CacheSettings
from edgedistill.pipeline.training.loop import Loop, LoopSettings
from edgedistill.pipeline.training.signals import TeacherSource
from edgedistill.pipeline.training.tensors import SplitTensors

SHAPE, CLASSES, SHIFT = (1, 28, 28), 10, 2
CHUNK = 1000
MIB = 1024  # KiB


class AnonymousPeak:
    """Looks at this process's anonymous memory every 20 ms, from a thread."""

    def __init__(self) -> None:
        self.kib, self._over = 0, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            status = Path("/proc/self/status").read_text()
            line = next(part for part in status.splitlines() if part.startswith("RssAnon"))
            self.kib = max(self.kib, int(line.split()[1]))

    def end(self) -> int:
        """The peak, in KiB."""
        self._over.set()
        return self.kib


def mapped(folder: Path, samples: int) -> SplitTensors:
    """Noise as images in a mapped file, written piece by piece."""
    rng = np.random.default_rng(0)
    path = folder / f"images-{samples}.npy"
    images = np.lib.format.open_memmap(path, "w+", "float32", (samples, *SHAPE))
    for start in range(0, samples, CHUNK):
        part = images[start : start + CHUNK]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
    images.flush()
    del images
    inputs = {"image": torch.from_numpy(np.load(path, mmap_mode="c"))}
    return SplitTensors(inputs, torch.from_numpy(rng.integers(0, CLASSES, samples)))


def network(model: str, width: int) -> torch.nn.Module:
    """A built-in model with fresh weights."""
    spec = {"model": model, "options": {"width": width}}
    return build_model(spec, CLASSES, {"image": SHAPE}, Path())


def train(samples: int) -> dict[str, float]:
    """One epoch; gives the peaks in MiB and the sizes of what lies on the disk in MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split, validation = mapped(folder, samples), mapped(folder, CHUNK)
        source = TeacherSource(
            lambda _: network("resnet8", 16), cache=CacheSettings(folder / "signals", 1e9)
        )
        settings = LoopSettings(
            epochs=1, batch_size=64, optimizer="adamw", lr=3e-3, weight_decay=1e-4,
            schedule="cosine", warmup=0.1, seed=0, shift=SHIFT, devices="cpu",
        )  # fmt: skip
        peak = AnonymousPeak()
        method = KnowledgeDistillation(KnowledgeDistillation.Options())
        student = network("dscnn", 16)
        Loop(method, student, source, split, validation, settings, folder, lambda *_: None).fit()
        stored = sum(f.stat().st_size for f in (folder / "signals").rglob("*") if f.is_file())
        return {
            "samples": samples,
            "own": peak.end() / MIB,
            "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB,
            "images": split.inputs["image"].nbytes / 1e6,
            "signals": stored / 1e6,
        }


def in_child(samples: int) -> dict[str, float]:
    """The same in a fresh process, whose peaks are its own."""
    command = [sys.executable, __file__, "--child", str(samples)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(told.splitlines()[-1]))


def main() -> None:
    """Print the table and the growth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train(options.child)))
        return
    rows = [in_child(samples) for samples in options.samples]
    print(
        f"{'samples':>8} {'own MiB':>8} {'resident MiB':>13} {'images MB':>10} {'signals MB':>11}"
    )
    for row in rows:
        print(
            f"{row['samples']:8} {row['own']:8.0f} {row['resident']:13.0f}"
            f" {row['images']:10.0f} {row['signals']:11.1f}"
        )
    first, last = rows[0], rows[-1]
    print(
        f"growth of the process's own memory: {last['own'] - first['own']:.0f} MiB"
        f" for {last['samples'] - first['samples']} samples more"
    )


if __name__ == "__main__":
    main()
