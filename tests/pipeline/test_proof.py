"""What a bundle of the finished run proves and answers."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from importlib.resources import files as files_of
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgedistill import pipeline
from edgedistill.pipeline import plugins, proof
from edgedistill.pipeline.bundle import SUMS, open_bundle, pack
from edgedistill.pipeline.contracts import Signature, TensorSpec
from edgedistill.pipeline.data.load import load_data
from edgedistill.pipeline.errors import BundleError, DataError

ORIENTATION = 0x0112  # the EXIF tag
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "ai_edge_litert"}


@pytest.fixture(scope="session")
def whole(finished, tmp_path_factory):
    """A bundle with one artefact of every format."""
    path = tmp_path_factory.mktemp("bundle") / "whole.edge.zip"
    names = [x for kind in RUNTIMES for x in ("--artifact", f"{kind}-int8")]
    ended = finished.type("bundle", finished.run, *names, "--out", path)
    assert ended.returncode == 0, ended.stderr
    return path


@pytest.fixture(scope="session")
def raw(finished):
    return np.load(finished.run / "stages/data/raw/input.npy")


def altered(bundle, tmp_path, **changes):
    """The bundle with other files, packed again by a careful hand."""
    files = {k: v for k, v in bundle.files.items() if k != SUMS}
    for name, content in changes.items():
        path = next(f for f in files if f.endswith(name.replace("__", ".")))
        if content is None:
            del files[path]
        else:
            files[path] = content
    path = tmp_path / "altered.edge.zip"
    path.write_bytes(pack(files))
    return open_bundle(path)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_every_artefact_repeats_its_golden_outputs(whole):
    records = proof.verify(open_bundle(whole))
    assert [r["name"] for r in records] == [f"{kind}-int8" for kind in RUNTIMES]
    assert all(r["ran"] and r["difference"] <= r["tolerance"] for r in records)


@pytest.mark.parametrize("value", [9.0, np.nan])
def test_another_answer_is_noticed(whole, tmp_path, value):
    bundle = open_bundle(whole)
    wanted = bundle.arrays("golden/expected/onnx-int8")["logits"].copy()
    wanted[3, 2] += value
    forged = altered(bundle, tmp_path, **{"onnx-int8/logits__npy": npy(wanted)})
    with pytest.raises(BundleError, match="onnx-int8 does not repeat its golden outputs"):
        proof.verify(forged)


def test_golden_outputs_that_are_gone_prove_nothing(whole, tmp_path):
    with pytest.raises(BundleError, match="no golden outputs of onnx-int8"):
        proof.verify(altered(open_bundle(whole), tmp_path, **{"onnx-int8/logits__npy": None}))


def test_other_preprocessing_is_noticed(whole, tmp_path):
    bundle = open_bundle(whole)
    manifest = json.loads(bundle.files["manifest.json"])
    manifest["preprocessing"]["input"]["scale"] *= 2
    forged = altered(bundle, tmp_path, manifest__json=json.dumps(manifest).encode())
    with pytest.raises(BundleError, match="pre-processing of 'input'"):
        proof.verify(forged)


def test_predicts_one_sample_and_a_batch(whole, raw, tmp_path):
    np.save(tmp_path / "one.npy", raw[2])
    np.save(tmp_path / "batch.npy", raw)
    np.savez(tmp_path / "named.npz", input=raw)
    bundle = open_bundle(whole)
    answers = [
        proof.predict(bundle, [tmp_path / name]) for name in ("one.npy", "batch.npy", "named.npz")
    ]
    assert [len(a) for a in answers] == [1, len(raw), len(raw)]
    labels = [[x["label"] for x in a] for a in answers]
    assert labels[0] == [labels[1][2]]
    assert labels[1] == labels[2]
    logits = bundle.arrays(f"golden/expected/{bundle.manifest['default']}")["logits"]
    assert labels[1] == [bundle.manifest["labels"][i] for i in logits.argmax(1)]
    assert sum(answers[1][0]["likeliest"].values()) <= 1 + 1e-6


def test_predicts_an_image(whole, raw, tmp_path):
    Image.fromarray(raw[1]).save(tmp_path / "digit.png")
    np.save(tmp_path / "digit.npy", raw[1])
    bundle = open_bundle(whole)
    image, array = proof.predict(bundle, [tmp_path / "digit.png", tmp_path / "digit.npy"])
    assert image["likeliest"] == array["likeliest"]


@pytest.mark.parametrize("name", ["plain.png", "rotated.jpg"])
@pytest.mark.parametrize("grayscale", [False, True])
def test_images_are_decoded_as_in_training(tmp_path, name, grayscale):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = 6 if name == "rotated.jpg" else 1
    folder = tmp_path / "images/a"
    folder.mkdir(parents=True)
    Image.fromarray(pixels).save(folder / name, exif=exif)
    (tmp_path / "images/b").mkdir()
    for i in range(18):  # enough for every split
        Image.fromarray(pixels + np.uint8(i + 1)).save(folder.with_name("ab"[i % 2]) / f"{i}.png")
    settings = {"path": "images", "size": [8, 12], "grayscale": grayscale}
    data = load_data({"source": "imagefolder", "options": settings}, tmp_path)
    (spec,) = data.preprocessing.to_json().values()
    got = proof._image(folder / name, spec)
    trained = [image for part in data.splits().values() for image in part.inputs["input"]]
    assert got.dtype == np.uint8
    assert any(np.array_equal(got, image) for image in trained)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.npy", npy(np.zeros((3, 9, 8), "uint8")), "shape (3, 9, 8), expected (8, 8) or"),
        ("x.npy", npy(np.zeros((2, 3, 8, 8), "uint8")), "shape (2, 3, 8, 8)"),
        ("x.npy", npy(np.zeros((8, 8), "float64")), "float64, not (8, 8) of uint8"),
        ("x.npy", b"words", "cannot be read"),
        ("x.npy", b"", "cannot be read"),
        ("x.npz", b"PK\x03\x04 torn", "cannot be read"),
        ("x.png", b"words", "cannot be read"),
        ("x.npy", None, "there is no file"),
    ],
)
def test_inputs_that_do_not_fit(whole, tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        proof.predict(open_bundle(whole), [tmp_path / name])
    assert told in str(caught.value)


def test_an_unknown_artefact(whole, tmp_path):
    with pytest.raises(BundleError, match="no artefact 'onnx-int4'") as caught:
        proof.predict(open_bundle(whole), [tmp_path / "x.npy"], "onnx-int4")
    assert "tflite-int8" in caught.value.hint


# ------------------------------------------------------------------ predict.py inside the bundle

SPY = """
import runpy, sys
try:
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def unpacked(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    open_bundle(whole).extract(folder)
    return folder


def predict_py(folder, *arguments):
    command = [sys.executable, "-I", "-c", SPY, str(folder / "predict.py"), *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder.parent, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("kind", RUNTIMES)
def test_predict_py_needs_numpy_and_one_runtime(unpacked, whole, raw, kind, tmp_path):
    np.save(tmp_path / "x.npy", raw)
    name = f"{kind}-int8"
    ended = predict_py(unpacked, "--artifact", name, "--verify", tmp_path / "x.npy")
    assert ended.returncode == 0, ended.stderr
    first, *lines = ended.stdout.splitlines()
    assert first.startswith(f"{name}: sound, golden outputs repeated")
    labels = [line.rpartition(": ")[2].split()[0] for line in lines]
    answers = proof.predict(open_bundle(whole), [tmp_path / "x.npy"], name)
    assert labels == [answer["label"] for answer in answers]
    loaded = set(json.loads(ended.stderr.splitlines()[-1].replace("'", '"')))
    heavy = {"torch", "onnx", "tensorflow", "edgedistill", *RUNTIMES.values()}
    assert loaded & heavy == {RUNTIMES[kind]}


def test_predict_py_takes_one_sample(unpacked, raw, tmp_path):
    np.save(tmp_path / "one.npy", raw[0])
    ended = predict_py(unpacked, tmp_path / "one.npy")
    assert len(ended.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give INPUT files"),
        (("--artifact", "onnx-int4", "--verify"), "no artefact 'onnx-int4'"),
        (("gone.npy",), "cannot be read"),
        (("wrong.npy",), "expected uint8 (8, 8) or (N, *(8, 8))"),
    ],
)
def test_predict_py_says_what_is_wrong(unpacked, arguments, told):
    np.save(unpacked.parent / "wrong.npy", np.zeros((2, 3, 8, 8), "uint8"))
    ended = predict_py(unpacked, *arguments)
    assert ended.returncode != 0
    assert told in ended.stderr


def test_predict_py_notices_a_changed_file(whole, tmp_path):
    open_bundle(whole).extract(tmp_path / "b")
    path = tmp_path / "b" / "MODEL_CARD.md"
    path.write_bytes(path.read_bytes() + b" ")
    ended = predict_py(tmp_path / "b", "--verify")
    assert ended.returncode != 0
    assert "MODEL_CARD.md was changed" in ended.stderr


class Unlike(torch.nn.Module):
    """Two inputs of one shape, which may not be swapped."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)

    def forward(self, zebra, apple):
        return self.first(zebra) - 3 * self.second(apple)


@pytest.fixture(params=[*RUNTIMES, "executorch"])
def two_inputs(request, tmp_path):
    """A bundle, unpacked, whose inputs stand in the call in another order than in the alphabet."""
    torch.manual_seed(0)
    kind, model, rng = request.param, Unlike().eval(), np.random.default_rng(0)
    feeds = {name: rng.standard_normal((5, 4), np.float32) for name in ("zebra", "apple")}
    with torch.no_grad():
        expected = model(*map(torch.from_numpy, feeds.values())).numpy()
    signature = Signature(
        tuple(TensorSpec(name, (None, 4), "float32") for name in feeds),
        (TensorSpec("logits", (None, 3), "float32"),),
    )
    made = tmp_path / "made"
    made.mkdir()
    written = plugins.exporter(kind).export(model, signature, made)
    spec = {"raw_shape": [4], "raw_dtype": "float32", "raw_layout": "", "layout": "",
            "dtype": "float32", "scale": 1.0, "mean": [0.0], "std": [1.0]}  # fmt: skip
    packed = [path for path in made.iterdir() if path.suffix not in (".json", ".pt2")]
    models = {f"models/m/{path.name}": path.read_bytes() for path in packed}
    entry = {"name": "m", "format": kind, "precision": "fp32", "signature": written.to_json(),
             "files": sorted(models), "golden_tolerance": 1e-4}  # fmt: skip
    manifest = {"schema": 1, "name": "two", "default": "m", "artifacts": [entry], "passed": True,
                "labels": ["a", "b", "c"], "preprocessing": dict.fromkeys(feeds, spec)}  # fmt: skip
    files = {
        "manifest.json": json.dumps(manifest, sort_keys=True).encode(),
        "predict.py": (files_of(pipeline) / "templates/predict.py").read_bytes(),
        "golden/expected/m/logits.npy": npy(expected),
        **{f"golden/{at}/{k}.npy": npy(v) for at in ("raw", "inputs") for k, v in feeds.items()},
        **models,
    }
    (tmp_path / "two.edge.zip").write_bytes(pack(files))
    open_bundle(tmp_path / "two.edge.zip").extract(tmp_path / "unpacked")
    np.savez(tmp_path / "x.npz", **feeds)
    return tmp_path / "unpacked", tmp_path / "x.npz", expected


def test_predict_py_feeds_by_name(two_inputs):
    folder, inputs, expected = two_inputs
    ended = predict_py(folder, "--verify", inputs)
    assert ended.returncode == 0, ended.stderr
    first, *lines = ended.stdout.splitlines()
    assert first.startswith("m: sound, golden outputs repeated")
    labels = [line.rpartition(": ")[2].split()[0] for line in lines]
    assert labels == ["abc"[i] for i in expected.argmax(1)]


def test_an_input_without_a_finite_answer_is_refused():
    logits = np.array([[1.0, 2.0], [np.nan, 0.0]])
    with pytest.raises(DataError, match=r"x\.npy: sample 1 has no answer"):
        proof._check_finite(Path("x.npy"), logits)
