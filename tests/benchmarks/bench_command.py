"""Whole commands: `--help` against importing click, and the demo with its unchanged second run.

    python tests/benchmarks/bench_command.py [--no-demo]

Commands that are compared run in turn, A B A B, after one warm-up; ratios are of medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [str(Path(sys.executable).with_name("edgedistill"))]
DEMO = str(ROOT / "examples" / "digits" / "edge.yaml")
MEBIBYTE = 2**20


def seconds(command: list[str]) -> float:
    """Wall seconds of a command that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def compare_help(rounds: int = 15) -> None:
    ours, base = [*COMMAND, "--help"], [sys.executable, "-c", "import click"]
    pairs = [(seconds(ours), seconds(base)) for _ in range(rounds + 1)][1:]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [x / y for x, y in pairs]
    print(
        f"--help {1e3 * a:.0f} ms, `import click` {1e3 * b:.0f} ms: ratio {a / b:.2f}"
        f" ({min(ratios):.2f} to {max(ratios):.2f}; goal at most 3)"
    )


class PeakMemory(threading.Thread):
    """Largest resident size of any single process below this one, sampled from /proc."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.stopped = 0, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.05):
            for status in Path("/proc").glob("[0-9]*/status"):
                self.peak = max(self.peak, self._resident(status))

    @staticmethod
    def _resident(status: Path) -> int:
        try:
            fields = dict(
                line.split(":", 1) for line in status.read_text().splitlines() if ":" in line
            )
            ours = b"edgedistill" in (status.parent / "cmdline").read_bytes()
        except OSError:  # the process has ended meanwhile
            return 0
        return int(fields["VmHWM"].split()[0]) * 1024 if ours and "VmHWM" in fields else 0


def time_demo() -> None:
    with tempfile.TemporaryDirectory() as runs:
        command = [*COMMAND, "run", DEMO, "--runs", runs]
        memory = PeakMemory()
        memory.start()
        first = seconds(command)
        memory.stopped.set()
        memory.join()
        again = [seconds(command) for _ in range(5)]
    print(
        f"demo {first:.0f} s (goal under 180), peak memory of any process"
        f" {memory.peak / MEBIBYTE:.0f} MiB (goal under 3072)"
    )
    print(f"unchanged second run {statistics.median(again):.2f} s (goal under 3)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-demo", action="store_true", help="leave the demo out")
    arguments = parser.parse_args()
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    print(f"{cores} cores, load average {load:.1f} at the start")
    compare_help()
    if not arguments.no_demo:
        time_demo()


if __name__ == "__main__":
    main()
