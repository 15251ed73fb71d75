"""Answer inputs with the model of this bundle. Needs numpy and the model's runtime alone.

The runtime of a .pte file, executorch, needs torch in turn.

python predict.py INPUT.npy [INPUT.npz ...]    raw samples, one or a batch
python predict.py --verify                     check sums and repeat the golden answers
python predict.py --artifact NAME ...          another artefact of the bundle
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def preprocess(raw, spec):
    """Raw samples `(N, *raw_shape)` -> a model input; fp32, in this order of operations."""
    x = raw
    if np.dtype(spec["dtype"]).kind == "f":
        x = raw.astype(np.float32) * np.float32(spec["scale"])
        x = (x - per_channel(spec["mean"], spec)) / per_channel(spec["std"], spec)
    x = x.astype(spec["dtype"], copy=False)
    axes, layout = "N" + spec["raw_layout"], spec["layout"]
    if layout not in ("", axes):
        if "C" not in axes:
            axes, x = axes + "C", x[..., np.newaxis]
        x = x.transpose([axes.index(axis) for axis in layout])
    return np.ascontiguousarray(x)


def per_channel(values, spec):
    values = np.asarray(values, np.float32)
    channel = spec["raw_layout"].find("C")
    channel = channel if channel >= 0 else len(spec["raw_shape"]) - 1
    after = len(spec["raw_shape"]) - channel - 1
    return values if values.size == 1 else values.reshape(-1, *[1] * after)


# Every loader gives a function: inputs by name -> outputs in the order of the signature. Names are
# used throughout, since neither the manifest nor a TFLite file keeps its inputs in call order.


def load_onnx(file, precision, outputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(outputs, feeds)


def load_openvino(file, precision, outputs):
    import openvino

    hint = {} if precision == "fp16" else {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(file, "CPU", {"INFERENCE_NUM_THREADS": 1, **hint})

    def run(feeds):
        results = model(feeds)
        return [results[name].copy() for name in outputs]

    return run


def load_tflite(file, precision, outputs):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(file, num_threads=1)  # the runner does not keep it alive
    runner = interpreter.get_signature_runner()
    dtypes = {name: detail["dtype"] for name, detail in runner.get_input_details().items()}

    def run(feeds):
        feeds = {name: feeds[name].astype(dtype) for name, dtype in dtypes.items()}
        count = len(next(iter(feeds.values())))
        rows = [runner(**{k: v[i : i + 1] for k, v in feeds.items()}) for i in range(count)]
        return [np.concatenate([row[name] for row in rows]) for name in outputs]

    return run


def load_executorch(file, precision, outputs):
    try:
        import torch
        from executorch.runtime import Runtime
    except ImportError as error:
        sys.exit(f"a .pte file needs executorch and torch: pip install executorch torch ({error})")
    program = Runtime.get().load_program(file)
    (inputs,), (results,) = (
        program.load_method(f"{which}_names").execute([]) for which in ("input", "output")
    )
    names, places = json.loads(inputs), [json.loads(results).index(name) for name in outputs]
    forward = program.load_method("forward")

    def run(feeds):
        # Contiguous: of any other layout in memory executorch computes something else, silently.
        tensors = [torch.from_numpy(feeds[name]).contiguous() for name in names]
        columns = (tensor.split(1) for tensor in tensors)
        rows = [forward.execute(row) for row in zip(*columns, strict=True)]
        return [np.concatenate([row[place].numpy() for row in rows]) for place in places]

    return run


LOADERS = {
    "onnx": load_onnx,
    "openvino": load_openvino,
    "tflite": load_tflite,
    "executorch": load_executorch,
}
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "tflite": ".tflite", "executorch": ".pte"}


def open_model(manifest, name):
    entry = next((e for e in manifest["artifacts"] if e["name"] == name), None)
    if entry is None:
        sys.exit(f"no artefact {name!r}; there are {[e['name'] for e in manifest['artifacts']]}")
    file = next(f for f in entry["files"] if f.endswith(SUFFIXES[entry["format"]]))
    outputs = [spec["name"] for spec in entry["signature"]["outputs"]]
    return entry, LOADERS[entry["format"]](str(HERE / file), entry["precision"], outputs)


def inputs_of(entry, manifest):
    """Pre-processing by input name, for the inputs in the artefact's signature."""
    specs = manifest["preprocessing"]
    return {spec["name"]: specs[spec["name"]] for spec in entry["signature"]["inputs"]}


def read(path, specs):
    """Raw inputs of a file, by name, as batches."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        sys.exit(f"{path} cannot be read as .npy or .npz: {error}")
    arrays = {next(iter(specs)): loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    return {name: batch(path, name, arrays.get(name), spec) for name, spec in specs.items()}


def batch(path, name, array, spec):
    shape, dtype = tuple(spec["raw_shape"]), spec["raw_dtype"]
    if array is None or array.dtype != dtype or shape not in (array.shape, array.shape[1:]):
        got = "missing" if array is None else f"{array.dtype} {array.shape}"
        sys.exit(f"{path}: input {name!r} is {got}, expected {dtype} {shape} or (N, *{shape})")
    return array if array.shape != shape else array[np.newaxis]


def predict(manifest, name, paths):
    entry, run = open_model(manifest, name)
    specs = inputs_of(entry, manifest)
    for path in paths:
        raw = read(path, specs)
        logits = run({key: preprocess(raw[key], spec) for key, spec in specs.items()})[0]
        if not np.isfinite(logits).all():
            sys.exit(f"{path}: no finite answer; look for NaN or extreme values in the input")
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        for row in odds:
            print(f"{path}: {manifest['labels'][int(row.argmax())]} ({row.max():.1%})")


def verify(manifest, name):
    for line in (HERE / "SHA256SUMS").read_text().splitlines():
        digest, file = line.split("  ", 1)
        if hashlib.sha256((HERE / file).read_bytes()).hexdigest() != digest:
            sys.exit(f"{file} was changed")
    entry, run = open_model(manifest, name)
    specs, golden = inputs_of(entry, manifest), HERE / "golden"
    feeds = {}
    for key, spec in specs.items():
        feeds[key] = preprocess(np.load(golden / "raw" / f"{key}.npy"), spec)
        if not np.array_equal(feeds[key], np.load(golden / "inputs" / f"{key}.npy")):
            sys.exit(f"pre-processing of {key!r} does not give the golden input")
    expected = np.load(golden / "expected" / name / "logits.npy")
    difference = np.abs(run(feeds)[0] - expected).max() / max(1.0, np.abs(expected).max())
    if not difference <= entry["golden_tolerance"]:
        sys.exit(f"{name}: outputs differ by {difference:.3g} from the golden ones")
    print(f"{name}: sound, golden outputs repeated (difference {difference:.3g})")


def main():
    manifest = json.loads((HERE / "manifest.json").read_text())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", nargs="*", help=".npy or .npz files with raw samples")
    parser.add_argument("--artifact", default=manifest["default"])
    parser.add_argument("--verify", action="store_true")
    arguments = parser.parse_args()
    if arguments.verify:
        verify(manifest, arguments.artifact)
    elif not arguments.inputs:
        parser.error("give INPUT files, or --verify")
    if arguments.inputs:
        predict(manifest, arguments.artifact, arguments.inputs)


if __name__ == "__main__":
    main()
