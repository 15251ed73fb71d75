"""int8 for OpenVINO by NNCF's post-training quantization, in several recipes.

minmax           mixed preset, ranges of activations from the extremes, no bias correction
bias-corrected   the same with fast bias correction
nncf-default     what `nncf.quantize` does by itself: symmetric activations
transformer      for attention: NNCF's scheme for transformers, with smooth quantization
mixed            minmax, with the layers in float that cost the output most
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._files import calibration_feeds
from ._mixed import greedy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..pipeline.contracts import Array, Arrays, Signature

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "minmax": {},
    "bias-corrected": {"bias_correction": True},
    "nncf-default": {"tuned": False},
    "transformer": {"transformer": True},
    "mixed": {},
}
_QUANTIZED = frozenset({"Convolution", "GroupConvolution", "MatMul"})


def to_int8(ir: Any, samples: Arrays, signature: Signature, recipe: str) -> Any:
    """A quantized copy of a model.

    Args:
        ir: in fp32.
        samples: that calibrate.
        signature: of the model.
        recipe: one of `RECIPES`.
    """
    feeds = list(calibration_feeds("openvino", samples, signature, batch=1))

    def quantize(kept: Sequence[str]) -> Any:
        return _quantize(ir.clone(), feeds, kept, **RECIPES[recipe])

    if recipe != "mixed":
        return quantize(())
    return quantize(greedy(_layers(ir), quantize, lambda model: _answers(model, feeds), ir))


def _quantize(
    ir: Any,
    feeds: Sequence[dict[str, Array]],
    kept: Sequence[str],
    tuned: bool = True,
    bias_correction: bool = False,
    transformer: bool = False,
) -> Any:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    advanced = AdvancedQuantizationParameters(
        disable_bias_correction=not bias_correction,
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
    )
    return nncf.quantize(
        ir,
        nncf.Dataset(list(feeds)),
        preset=nncf.QuantizationPreset.MIXED if tuned else None,
        subset_size=len(feeds),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        ignored_scope=nncf.IgnoredScope(names=list(kept)) if kept else None,
        advanced_parameters=advanced if tuned else None,
    )


def _layers(ir: Any) -> list[str]:
    nodes = ir.get_ordered_ops()
    return [n.get_friendly_name() for n in nodes if n.get_type_name() in _QUANTIZED]


def _answers(ir: Any, feeds: Iterable[dict[str, Array]]) -> list[Array]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(ir, "CPU", settings)
    return [compiled(feed)[0].copy() for feed in feeds]
