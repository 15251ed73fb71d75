"""int8 for ExecuTorch by PT2E with XNNPACK's quantizer: static in two recipes, and dynamic.

Weights are symmetric and per channel, activations asymmetric and per tensor.

    histogram   ranges of activations that lose least of their histograms
    minmax      from the extremes of the samples
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._files import calibration_feeds

if TYPE_CHECKING:
    from pathlib import Path

    from torch.export import ExportedProgram

    from ..pipeline.contracts import Arrays, Precision, Signature

RECIPES = ("histogram", "minmax")


def quantize(
    file: Path, precision: Precision, recipe: str, samples: Arrays, signature: Signature
) -> ExportedProgram:
    """A captured model with int8 weights.

    Args:
        file: the captured model, as `torch.export.save` wrote it.
        precision: `int8` or `int8-dynamic`, whose ranges need no samples.
        recipe: one of `RECIPES`, for int8.
        samples: that calibrate.
        signature: of the fp32 file.
    """
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from ._capture import example_inputs

    examples = example_inputs(signature, batch=1)
    observed = prepare_pt2e(torch.export.load(file).module(), _quantizer(precision, recipe))
    with torch.no_grad():
        if precision == "int8-dynamic":
            observed(*examples)  # lets the weights be seen
        else:
            for feed in calibration_feeds("executorch", samples, signature, batch=1):
                observed(*(torch.from_numpy(feed[spec.name]) for spec in signature.inputs))
        return torch.export.export(convert_pt2e(observed), examples, strict=False)


def _quantizer(precision: Precision, recipe: str) -> Any:
    import torch
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack

    if precision == "int8-dynamic":
        scheme = xnnpack.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        return xnnpack.XNNPACKQuantizer().set_operator_type(torch.ops.aten.linear.default, scheme)
    scheme = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    return xnnpack.XNNPACKQuantizer().set_global(
        _by_extremes(scheme) if recipe == "minmax" else scheme
    )


def _by_extremes(scheme: Any) -> Any:
    """The scheme with ranges from the extremes instead of from a histogram."""
    from dataclasses import replace

    from torchao.quantization.pt2e import MinMaxObserver

    # The same least scale as in the scheme of XNNPACKQuantizer.
    observer = MinMaxObserver.with_args(eps=2**-12)
    ranges = replace(scheme.input_activation, observer_or_fake_quant_ctr=observer)
    return replace(scheme, input_activation=ranges, output_activation=ranges)
