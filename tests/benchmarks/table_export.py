"""Every built-in model in every format and precision: exported, parity, size, speed.

    python tests/benchmarks/table_export.py [--models a,b] [--formats c,d] [--out FILE]

Each family is trained for a few epochs on mnist5k, in few channels. Each format works in a process
of its own, with the first recipe of each precision. A file runs on its own runtime, one thread,
over 500 test images; SQNR, largest absolute difference and agreement of the most likely class are
those of its logits against torch in fp32. Time is the median latency of batch 1 over that of the
fp32 file of the same format, all precisions timed in turn. What fails is a row with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as pipeline/threads.py does, before torch

import numpy as np
import torch

from edgedistill.pipeline import plugins
from edgedistill.pipeline.contracts import Artifact, Precision, Session, Signature, TensorSpec
from edgedistill.pipeline.data.load import load_data
from edgedistill.pipeline.errors import EdgeDistillError
from edgedistill.pipeline.evaluation.latency import LatencySettings, measure, ratio
from edgedistill.pipeline.evaluation.parity import TOLERANCES
from edgedistill.pipeline.evaluation.statistics import agreement, sqnr_db
from edgedistill.pipeline.models.build import build_model
from edgedistill.pipeline.stages.data import spread
from edgedistill.pipeline.stages.export import drafted
from edgedistill.pipeline.store import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.pipeline.contracts import Arrays, Exporter
    from edgedistill.pipeline.data.dataset import Dataset

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"width": 64},
    "dscnn": {"width": 16},
    "resnet8": {"width": 8},
    "resnet20": {"width": 8},
    "mobilenetv2": {"width": 8},
    "mobilenetv3": {"width": 8},
    "transformer": {"width": 32, "depth": 2},
}
FORMATS = ("onnx", "openvino", "tflite", "executorch")
MATRIX_PRODUCTS = ("mlp", "transformer")  # what int8-dynamic is for

EPOCHS, BATCH, PEAK_LR = 2, 32, 4e-3
LONGER = {"transformer": 6}  # epochs of those that know too little after two
CALIBRATED, TESTED = 256, 500
TIMED = LatencySettings(seconds=0.3, samples=20, warmup_seconds=0.3)
PATIENCE_SECONDS = 300.0  # for one model in one format
NO_NOISE_DB = 999.0

FP32_SQNR_DB, FP32_MAX_ABS = 100.0, 1e-4  # either will do
FP16_SQNR_DB = TOLERANCES["fp16"].sqnr_db
INT8_AGREEMENT = 0.97


@dataclass(frozen=True, slots=True)
class Row:
    """One file, or why there is none; `latency` is relative to fp32."""

    model: str
    kind: str
    precision: str
    failed: str = ""
    sqnr: float = 0.0
    max_abs: float = 0.0
    agreement: float = 0.0
    size: int = 0
    latency: float | None = None

    @property
    def verdict(self) -> str:
        """`ok`, or what is wrong."""
        if self.failed:
            return f"FAILED: {self.failed}"
        if self.precision == "fp32":
            good = self.sqnr >= FP32_SQNR_DB or self.max_abs <= FP32_MAX_ABS
            wanted = f"{FP32_SQNR_DB:g} dB, or a difference of {FP32_MAX_ABS:g}"
        elif self.precision == "fp16":
            good, wanted = self.sqnr >= FP16_SQNR_DB, f"{FP16_SQNR_DB:g} dB"
        else:
            good, wanted = self.agreement >= INT8_AGREEMENT, f"agreement of {INT8_AGREEMENT:.0%}"
        return "ok" if good else f"NOT OK: wanted {wanted}"

    def __str__(self) -> str:
        verdict = " ".join(self.verdict.split()).replace("|", "\\|")
        figures = ["-"] * 5
        if not self.failed:
            latency = "-" if self.latency is None else f"{self.latency:.2f}"
            sizes = [f"{self.sqnr:.1f}", f"{self.max_abs:.1e}", f"{self.agreement:.1%}"]
            figures = [*sizes, f"{self.size / 1000:.1f}", latency]
        return f"| {' | '.join([self.kind, self.precision, *figures, verdict])} |"


TITLES = ("format", "precision", "SQNR dB", "max abs", "agreement", "kB", "time / fp32", "verdict")
HEADER = f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}"


def signature(data: Dataset) -> Signature:
    """What every model of the table takes and gives."""
    logits = TensorSpec("logits", (None, data.num_classes), "float32", "NC")
    return Signature(data.preprocessing.tensor_specs(), (logits,))


def build(name: str, data: Dataset) -> torch.nn.Module:
    """A family with fresh weights, the same each time."""
    torch.manual_seed(0)
    spec = {"model": name, "options": MODELS.get(name, {})}
    return build_model(spec, data.num_classes, data.preprocessing.shapes(), Path())


def inputs(data: Dataset, split: str, count: int) -> dict[str, np.ndarray]:
    """Model inputs `(count, ...)`, spread evenly over a split."""
    part = data.splits()[split]
    rows = spread(len(part), count)
    return data.preprocessing.apply({name: raw[rows] for name, raw in part.inputs.items()})


def train(name: str, data: Dataset, folder: Path) -> str:
    """Train a family for a moment; keeps its weights and its logits; tells what came out."""
    model = build(name, data)
    (images,) = data.preprocessing.apply(data.train.inputs).values()
    x, y = torch.from_numpy(images), torch.from_numpy(np.asarray(data.train.targets)).long()
    optimiser = torch.optim.AdamW(model.parameters(), PEAK_LR)
    epochs = LONGER.get(name, EPOCHS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LR, epochs * -(-len(y) // BATCH))
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    torch.save(model.state_dict(), folder / f"{name}.pt")
    (tested,) = inputs(data, "test", TESTED).values()
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(tested)).numpy()
    np.save(folder / f"{name}.npy", logits)
    targets = np.asarray(data.test.targets)[spread(len(data.test), TESTED)]
    options = ", ".join(f"{key} {value}" for key, value in MODELS.get(name, {}).items())
    size = sum(parameter.numel() for parameter in model.parameters())
    right = float((logits.argmax(1) == targets).mean())
    about = f"{options or 'default options'}; {size:,} parameters; {epochs} epochs"
    return f"{about}; torch fp32 {right:.1%} right"


def make_files(
    exporter: Exporter, name: str, data: Dataset, folder: Path
) -> tuple[dict[Precision, Artifact], list[Row]]:
    """One model in every precision of a format: the files, and rows for those that failed."""
    drafts: dict[Precision, Artifact] = {}
    failed = []
    for precision in exporter.precisions:
        if precision == "int8-dynamic" and name not in MATRIX_PRODUCTS:
            continue
        try:
            drafts[precision] = make_file(exporter, name, precision, drafts, data, folder)
        except Exception as error:  # whatever it is, the table tells it
            failed.append(Row(name, exporter.kind, precision, reason(error)))
    return drafts, failed


def make_file(
    exporter: Exporter,
    name: str,
    precision: Precision,
    drafts: Mapping[Precision, Artifact],
    data: Dataset,
    folder: Path,
) -> Artifact:
    """Export, or convert the fp32 file by the first recipe."""
    out = folder / f"{name}-{exporter.kind}-{precision}"
    out.mkdir()
    if precision == "fp32":
        model = build(name, data).eval()
        model.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
        written = exporter.export(model, signature(data), out)
    elif "fp32" not in drafts:
        raise EdgeDistillError("there is no fp32 file to convert")
    else:
        samples = inputs(data, "validation", CALIBRATED)
        recipe = exporter.recipes.get(precision, ())[:1]
        written = exporter.convert(drafts["fp32"], precision, samples, out, *recipe)
    return drafted(exporter.kind, precision, out, written)


def reason(error: Exception) -> str:
    """What went wrong, without the hint."""
    if isinstance(error, EdgeDistillError):
        return error.message
    return f"{type(error).__name__}: {error}"


def judge(
    name: str, drafts: Mapping[Precision, Artifact], feeds: Arrays, wanted: np.ndarray
) -> list[Row]:
    """Run the files on their runtime, and time those that run against one another."""
    rows, sessions = [], {}
    with ExitStack() as stack:
        for precision, draft in drafts.items():
            row = Row(name, draft.kind, precision, size=draft.size_bytes)
            try:
                session = stack.enter_context(plugins.target("cpu").open(draft, threads=1))
                rows.append(compare(row, session, feeds, wanted))
                sessions[precision] = session
            except EdgeDistillError as error:
                rows.append(replace(row, failed=reason(error)))
        if "fp32" not in sessions:
            return rows
        one = {key: value[:1] for key, value in feeds.items()}
        times = measure(sessions, dict.fromkeys(sessions, one), TIMED)
    ratios = {precision: ratio(result, times["fp32"]).value for precision, result in times.items()}
    return [replace(row, latency=ratios.get(row.precision)) for row in rows]


def compare(row: Row, session: Session, feeds: Arrays, wanted: np.ndarray) -> Row:
    """How near a file's logits are to torch's."""
    (got,) = session.run(feeds).values()
    return replace(
        row,
        sqnr=min(sqnr_db(wanted, got), NO_NOISE_DB),
        max_abs=float(np.abs(wanted - got).max()),
        agreement=agreement(wanted, got),
    )


def fill(kind: str, models: list[str], folder: Path, rows: Path) -> None:
    """The part of a format's process: appends the rows of each model to a file."""
    torch.set_num_threads(1)
    exporter, data = plugins.exporter(kind), load_data({"source": "mnist5k"}, Path())
    feeds = inputs(data, "test", TESTED)
    for name in models:
        drafts, failed = make_files(exporter, name, data, folder)
        told = judge(name, drafts, feeds, np.load(folder / f"{name}.npy")) + failed
        told.sort(key=lambda row: list(exporter.precisions).index(row.precision))
        with rows.open("a") as stream:
            stream.write(json.dumps([asdict(row) for row in told]) + "\n")


def in_children(kind: str, models: list[str], folder: Path) -> list[Row]:
    """All rows of a format; a process that dies costs the model that it was at, and no other."""
    if missing := plugins.exporter(kind).missing():
        return [Row(name, kind, "all", f"needs {missing.pip_line}") for name in models]
    found, left, path = [], list(models), folder / f"{kind}.rows"
    while left:
        path.write_text("")
        told = run_child(kind, left, folder, path)
        for line in path.read_text().splitlines():
            found += [Row(**row) for row in json.loads(line)]
            left.pop(0)
        if left:
            found.append(Row(left.pop(0), kind, "all", told))
    return found


def run_child(kind: str, models: list[str], folder: Path, rows: Path) -> str:
    """Fill rows in a process; how it ended, for the model that is not in them."""
    command = [sys.executable, __file__, "--child", kind, "--models", ",".join(models)]
    log = folder / f"{kind}.log"
    try:
        with log.open("wb") as stream:
            code = subprocess.run(
                [*command, "--out", str(rows)],
                stdout=stream,
                stderr=stream,
                timeout=PATIENCE_SECONDS * len(models),
            ).returncode
    except subprocess.TimeoutExpired as error:
        return f"not done after {error.timeout:.0f} s"
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    return f"the process ended with {code}: {''.join(last)}"


def note(text: str, start: float) -> None:
    print(f"{time.monotonic() - start:4.0f} s  {text}", file=sys.stderr, flush=True)


def tables(models: list[str], formats: list[str]) -> tuple[str, list[Row]]:
    """Markdown, one table per model, and all rows."""
    start, data = time.monotonic(), load_data({"source": "mnist5k"}, Path())
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder, about = Path(name), {}
        for model in models:
            about[model] = train(model, data, folder)
            note(f"{model}: {about[model]}", start)
        for kind in formats:
            found = in_children(kind, models, folder)
            note(f"{kind}: {len(found)} rows", start)
            for row in found:
                if row.verdict != "ok":
                    note(f"{row.model} {row}", start)
            rows += found
    parts = []
    for model in models:
        lines = [str(row) for row in rows if row.model == model]
        parts.append("\n".join([f"## {model}", f"{about[model]}.\n", HEADER, *lines, ""]))
    return "\n".join(parts), rows


def heading(rows: list[Row], formats: list[str]) -> str:
    """What was run, when and where."""
    facts = plugins.target("cpu").facts()
    exporters = [plugins.exporter(kind) for kind in formats]
    needed = {name for one in exporters if not one.missing() for name in one.libraries}
    libraries = ", ".join(f"{name} {version(name)}" for name in sorted(needed))
    bad = sum(row.verdict != "ok" for row in rows)
    command = " ".join(["python", "tests/benchmarks/table_export.py", *sys.argv[1:]])
    about = " ".join(line for line in (__doc__ or "").splitlines()[4:] if line)
    return f"""# Exports: every model in every format and precision

{time.strftime("%Y-%m-%d", time.gmtime())}: `{command}`

Machine: {facts["cpu"]} ({", ".join(facts["isa_features"])}), {facts["cores"]["usable"]} cores;
Python {facts["python"]}; load average {facts["load_average"]}.

Libraries: {libraries}.

{about}

Wanted are: of fp32 {FP32_SQNR_DB:g} dB, or a difference of {FP32_MAX_ABS:g} at most; of fp16
{FP16_SQNR_DB:g} dB; of int8 an agreement of {INT8_AGREEMENT:.0%}.
{len(rows) - bad} of {len(rows)} rows are ok.
"""


def names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def main() -> None:
    """Print the tables; write them too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=names, default=list(MODELS), help="comma-separated")
    parser.add_argument("--formats", type=names, default=list(FORMATS), help="comma-separated")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for kind, known in (("models", plugins.names("models")), ("formats", list(FORMATS))):
        if unknown := sorted(set(getattr(options, kind)) - set(known)):
            parser.error(f"no {kind} {unknown}; known are {known}")
    if options.child:
        fill(options.child, options.models, options.out.parent, options.out)
        return
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are ended too
    body, rows = tables(options.models, options.formats)
    print(body)
    if options.out:
        write_atomic(options.out, f"{heading(rows, options.formats)}\n{body}".encode())


if __name__ == "__main__":
    main()
