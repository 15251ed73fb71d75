"""How long should OpenMP's threads spin before they sleep? Epochs of a small net, three ways.

    python tests/benchmarks/bench_threads.py

Each setting trains in a process of its own: alone, beside a process that keeps one core busy, and
beside a second training. Told is the median second per epoch of `none`; see pipeline/threads.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = {
    "0: sleep at once": {"GOMP_SPINCOUNT": "0"},
    "1000: ours": {"GOMP_SPINCOUNT": "1000"},
    "10000": {"GOMP_SPINCOUNT": "10000"},
    "not set": {},
}
EPOCHS = 4
BUSY = [sys.executable, "-c", "while True: pass"]


def train() -> float:
    """Median seconds of some epochs, after one that warms up."""
    import bench_training as bench

    with tempfile.TemporaryDirectory() as folder:
        epoch = bench.epochs_of(bench.make_loop(bench.none(), None, bench.digits(), Path(folder)))
        epoch()
        seconds = []
        for _ in range(EPOCHS):
            start = time.perf_counter()
            epoch()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def start(setting: dict[str, str]) -> subprocess.Popen[str]:
    """A training in a process of its own."""
    rest = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, __file__, "--child"]
    return subprocess.Popen(command, env=rest | setting, stdout=subprocess.PIPE, text=True)


def seconds_of(training: subprocess.Popen[str]) -> float:
    told, _ = training.communicate()
    return float(told.split()[-1])


def measure(setting: dict[str, str]) -> tuple[float, float, float]:
    """Seconds per epoch: alone, beside a busy process, beside a second training."""
    alone = seconds_of(start(setting))
    busy = subprocess.Popen(BUSY)
    beside_busy = seconds_of(start(setting))
    busy.kill()
    busy.wait()
    both = [start(setting), start(setting)]
    return alone, beside_busy, statistics.mean(map(seconds_of, both))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().child:
        print(train())
        return
    print(f"{'GOMP_SPINCOUNT':18} {'alone':>7} {'beside a busy process':>22} {'two at once':>12}")
    for name, setting in SETTINGS.items():
        alone, busy, both = measure(setting)
        print(f"{name:18} {alone:7.3f} {busy:22.3f} {both:12.3f}", flush=True)


if __name__ == "__main__":
    main()
