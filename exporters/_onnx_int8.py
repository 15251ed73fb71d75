"""int8 for ONNX by onnxruntime's quantizer: static QDQ in several recipes, and dynamic.

All static recipes have per-channel weights (QInt8) and unsigned activations (QUInt8), since
onnxruntime fuses two signed types badly.

    minmax           ranges of activations from the extremes of the samples
    moving-average   from a moving average of the extremes of each run
    percentile       the 99.99th percentile instead of the extremes
    entropy          the range whose histogram, quantized, diverges least from the original
    reduced-range    7 bits for weights: the same answers on CPUs that saturate 16-bit sums
    mixed            minmax, with the layers in float that cost the output most
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._files import calibration_feeds
from ._mixed import greedy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ..pipeline.contracts import Array, Arrays, Signature

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "minmax": {},
    "percentile": {"method": "Percentile", "extra": {"CalibPercentile": 99.99}},
    "moving-average": {"extra": {"CalibMovingAverage": True}},
    "entropy": {"method": "Entropy"},
    "reduced-range": {"reduce_range": True},
    "mixed": {},
}
_BATCH = 32  # samples per calibration run: bounds memory, changes no result of minmax
_QUANTIZED = frozenset({"Conv", "Gemm", "MatMul"})


def to_int8(file: Path, samples: Arrays, signature: Signature, out: Path, recipe: str) -> Any:
    """Static QDQ quantization.

    Args:
        file: in fp32.
        samples: that calibrate.
        signature: of the file.
        out: where onnxruntime wants to write.
        recipe: one of `RECIPES`.
    """
    import onnx

    def quantize(kept: Sequence[str]) -> Path:
        feeds = calibration_feeds("onnx", samples, signature, _BATCH)
        _quantize_static(file, out, feeds, kept, **RECIPES[recipe])
        return out

    if recipe == "mixed":
        feeds = list(calibration_feeds("onnx", samples, signature, _BATCH))
        kept = greedy(_layers(onnx.load(file)), quantize, lambda path: _answers(path, feeds), file)
        quantize(kept)
    else:
        quantize(())
    return onnx.load(out)


def _quantize_static(
    file: Path,
    out: Path,
    feeds: Iterable[dict[str, Any]],
    kept: Sequence[str],
    method: str = "MinMax",
    extra: Mapping[str, Any] | None = None,
    reduce_range: bool = False,
) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the feeds out one by one, as onnxruntime asks for them."""

        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    quantize_static(
        str(file),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        nodes_to_exclude=list(kept),
        extra_options=dict(extra or {}),
    )


def _layers(graph: Any) -> list[str]:
    return [node.name for node in graph.graph.node if node.op_type in _QUANTIZED]


def _answers(file: Path, feeds: Iterable[dict[str, Array]]) -> list[Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return [session.run(None, feed)[0] for feed in feeds]


def to_int8_dynamic(file: Path, out: Path) -> Any:
    """Quantize matrix products; `out` is where onnxruntime wants to write."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    graph = onnx.load(file)
    _unshare_gemm_weights(graph.graph)
    operators = [name for name in IntegerOpsRegistry if name != "Conv"]
    quantize_dynamic(graph, str(out), weight_type=QuantType.QInt8, op_types_to_quantize=operators)
    return onnx.load(out)


def _unshare_gemm_weights(body: Any) -> None:
    """Give every Gemm a weight of its own.

    onnxruntime's dynamic quantizer turns Gemm into MatMul and transposes the weight in place:
    once per Gemm, so that a tied weight comes out wrong.
    """
    weights = {tensor.name: tensor for tensor in body.initializer}
    for node in body.node:
        if node.op_type == "Gemm" and node.input[1] in weights:
            own = body.initializer.add()
            own.CopyFrom(weights[node.input[1]])
            own.name = f"{own.name}.of.{node.output[0]}"
            node.input[1] = own.name
    used = {name for node in body.node for name in node.input}
    kept = [tensor for tensor in body.initializer if tensor.name in used]
    body.ClearField("initializer")
    body.initializer.extend(kept)
