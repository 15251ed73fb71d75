"""A realistic report, a failing one, and latencies: what the tests of this folder share."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from edgedistill.pipeline.reporting.charts import draw_charts

FORMATS = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "litert"}
P50 = {
    "onnx-fp32": 0.412, "onnx-fp16": 0.431, "onnx-int8": 0.293,
    "openvino-fp32": 0.318, "openvino-fp16": 0.316, "openvino-int8": 0.187,
    "tflite-fp32": 0.365, "tflite-fp16": 0.368, "tflite-int8": 0.142,
}  # fmt: skip
SIZES = {"fp32": 86_200, "fp16": 47_100, "int8": 31_700}
DROPS = {"fp32": 0.5, "fp16": 0.5, "int8": 0.7}
TEACHER, TEACHER_P50 = 0.987, 2.31


def estimate(value, spread):
    return {"value": value, "ci95": [round(value - spread, 6), round(value + spread, 6)]}


def measurement(runtime, p50, speedup, target="cpu", verdict="stable"):
    latency = {
        "min": 0.93 * p50, "p50": p50, "p90": 1.06 * p50, "p99": 1.31 * p50,
        "ci95": [0.985 * p50, 1.017 * p50], "samples": 2400, "verdict": verdict,
    }  # fmt: skip
    return {
        "target": target, "runtime": runtime, "version": "1.31.1",
        "evidence": "measured on this host", "threads": 1, "precision": "int8", "device": "CPU",
        "latency_ms": latency, "load_ms": 14.2, "first_ms": 1.9, "peak_rss_bytes": 91_000_000,
        "speedup": speedup and estimate(speedup, 0.03 * speedup),
    }  # fmt: skip


def history(epochs, top, parts):
    return [
        {
            "epoch": n,
            "loss": {name: scale * (0.07 + 0.9 * 0.62**n) for name, scale in parts.items()},
            "validation_accuracy": round(top - 0.42 * 0.55**n + 0.002 * (-1) ** n, 4),
            "seconds": 2.1,
        }
        for n in range(1, epochs + 1)
    ]


def accuracy_of(epoch):
    return epoch["validation_accuracy"]


def checkpoint(epoch):
    return {"epoch": epoch["epoch"], "validation_accuracy": accuracy_of(epoch)}


def make_figure():
    return {
        "title": "Pass rates", "x": "pass rate p", "y": "% of samples", "note": "More is better.",
        "series": {"first epoch": [[0.05, 0.5], [80.0, 20.0]], "last epoch": [[0.05], [12.5]]},
    }  # fmt: skip


def student(method, accuracy, parts):
    epochs = history(10, accuracy, parts)
    return {
        "model": "dscnn", "method": method, "parameters": 19_860,
        "accuracy": estimate(accuracy, 0.008), "agreement": {"teacher": 0.984},
        "drop": estimate(round(100 * (TEACHER - accuracy), 2), 0.5),
        "epochs": {"best": checkpoint(max(epochs, key=accuracy_of)),
                   "last": checkpoint(epochs[-1])},
        "history": epochs,
        "figures": [make_figure()] if method == "kd" else [],
    }  # fmt: skip


def goals(drop, speedup, size):
    return [
        {"name": "accuracy_drop", "wanted": "at most 1.0 points",
         "got": f"{drop:.1f} points (0.1 to 1.2)", "met": drop <= 1.0},
        {"name": "speedup", "wanted": "at least 8x", "got": f"{speedup:.1f}x", "met": speedup >= 8},
        {"name": "size", "wanted": "at most 60 kB", "got": f"{size / 1e3:.1f} kB",
         "met": size <= 60_000},
    ]  # fmt: skip


def recipes():
    nothing = dict.fromkeys(
        ("accuracy", "drop", "agreement", "sqnr_db", "size_bytes", "latency_ratio")
    )
    got = {"size_bytes": 59_000, "latency_ratio": 0.71, "failed": ""}
    return {
        "chosen": "percentile",
        "tried": [
            {**got, "recipe": "minmax", "accuracy": 0.91, "drop": 7.2, "agreement": 0.92,
             "sqnr_db": 12.5, "holds": False},
            {**nothing, "recipe": "entropy", "holds": False, "failed": "onnx: no histogram"},
            {**got, "recipe": "percentile", "accuracy": 0.979, "drop": 0.3, "agreement": 0.99,
             "sqnr_db": 30.1, "holds": True},
        ],
    }  # fmt: skip


def artifact(fmt, precision):
    name = f"{fmt}-{precision}"
    size, drop, speedup = SIZES[precision], DROPS[precision], TEACHER_P50 / P50[name]
    wanted = goals(drop, speedup, size)
    worth = {
        "verdict": "yes" if precision == "int8" else "no",
        "why": f"{P50[name] / P50[f'{fmt}-fp32']:.2f}x the latency of {fmt}-fp32",
        "latency_ratio": estimate(0.71, 0.02),
        "size_ratio": size / SIZES["fp32"],
        "accuracy_drop": estimate(0.2, 0.3),
    }
    return {
        "name": name, "format": fmt, "precision": precision, "size_bytes": size,
        "parity": {"max_abs": 0.31, "sqnr_db": 36.1, "agreement": 0.998, "samples": 256,
                   "tolerance": {"agreement": 0.97}},
        "accuracy": estimate(TEACHER - drop / 100, 0.008), "drop": estimate(drop, 0.5),
        "agreement": {"teacher": 0.983, "student": 0.996},
        "measurements": [measurement(
            FORMATS[fmt], P50[name], speedup, verdict="noisy" if name == "onnx-fp16" else "stable"
        )],
        "recipes": recipes() if precision == "int8" else None,
        "worth_it": None if precision == "fp32" else worth,
        "goals": wanted, "meets_goals": all(goal["met"] for goal in wanted),
    }  # fmt: skip


def hops(fmt, precision):
    name = f"{fmt}-{precision}"
    found = [("teacher -> student", 0.5), (f"student -> {fmt}-fp32", 0.0)]
    if precision != "fp32":
        found.append((f"{fmt}-fp32 -> {name}", round(DROPS[precision] - 0.5, 2)))
    return [
        {"artifact": name, "hop": hop, "accuracy": TEACHER - drop / 100, "drop": drop,
         "ci95": [drop - 0.4, drop + 0.4] if drop else [0.0, 0.0]}
        for hop, drop in found
    ]  # fmt: skip


def make_report():
    pairs = [(fmt, precision) for fmt in FORMATS for precision in SIZES]
    return {
        "schema": 1, "name": "digits", "edgedistill": "0.1.0",
        "date": "2026-11-21T09:00:00+00:00",
        "environment": {
            "cpu": {"model": "Intel Xeon Platinum 8488C", "cores": 2, "governor": "performance",
                    "features": ["avx2", "avx512f", "avx512_vnni", "amx_int8"]},
            "libraries": {"torch": "2.13.0", "onnxruntime": "1.31.1", "openvino": "2026.4.1"},
        },
        "data": {"source": "mnist5k", "sizes": {"train": 3500, "validation": 500, "test": 1000},
                 "labels": [str(digit) for digit in range(10)]},
        "teacher": {
            "model": "resnet20", "parameters": 1_080_000, "accuracy": estimate(TEACHER, 0.006),
            "measurement": measurement("torch", TEACHER_P50, None),
            "history": history(8, 0.986, {"total": 1.0}),
        },
        "student": student("kd", 0.982, {"total": 3.0, "labels": 0.8, "teacher": 2.2}),
        "baseline": student("none", 0.976, {"total": 1.1}),
        "gain": {"value": 0.6, "ci95": [-0.1, 1.3],
                 "verdict": "not distinguishable from the baseline"},
        "artifacts": [artifact(*pair) for pair in pairs],
        "failures": [],
        "attribution": [hop for pair in pairs for hop in hops(*pair)],
        "goals": goals(0.7, TEACHER_P50 / P50["tflite-int8"], SIZES["int8"]),
        "selected": "tflite-int8", "passed": True,
    }  # fmt: skip


def make_failing():
    """Missed goals, a failed format, no baseline, no teacher latency, and every possible null."""
    report = make_report()
    report.update(baseline=None, gain=None, selected=None, passed=False)
    report["artifacts"] = [a for a in report["artifacts"] if a["format"] == "onnx"]
    report["attribution"] = [h for h in report["attribution"] if h["artifact"].startswith("onnx")]
    report["teacher"].update(measurement=None, history=[], parameters=None)
    report["goals"] = goals(1.4, 5.6, SIZES["int8"])
    report["failures"] = [{
        "stage": "export-tflite-fp32",
        "message": "aten.roll has no TFLite lowering.\n  -> replace it by torch.cat of two slices",
    }]  # fmt: skip
    for item in report["artifacts"]:
        item["goals"], item["meets_goals"] = goals(1.4, 5.6, item["size_bytes"]), False
        item["measurements"][0]["latency_ms"].update(p90=None, p99=None, ci95=None)
        item["measurements"][0].update(speedup=None, first_ms=None)
        item["parity"]["sqnr_db"] = None
    report["artifacts"][1]["measurements"] = []
    return report


def make_latencies():
    random = np.random.default_rng(0)
    medians = {"teacher": TEACHER_P50, **P50}
    return {
        name: (p50 * (0.93 + 0.07 * random.lognormal(0, 0.5, 900))).tolist()
        for name, p50 in medians.items()
    }


@pytest.fixture
def report():
    return copy.deepcopy(make_report())


@pytest.fixture
def failing():
    return copy.deepcopy(make_failing())


@pytest.fixture(scope="session")
def drawn():
    """Every chart of the realistic report: drawn once, for the tests that only read."""
    sections = draw_charts(make_report(), make_latencies())
    return [chart for found in sections.values() for chart in found]


@pytest.fixture
def latencies():
    return make_latencies()
