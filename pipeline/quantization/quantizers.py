"""The int8 grids of weights and of activations, with straight-through gradients.

Weights: symmetric, one scale per output channel, -127 to 127. Activations: asymmetric, one scale
per tensor, 0 to 255, the range always with zero in it. These are the grids of the quantizers of
onnxruntime, OpenVINO and LiteRT; a weight that lies on the grid stays where it is in all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .folding import Norm, gain_of
from .graphs import output_axis

LEVELS = 127  # of a weight, on either side of zero
STEPS = 255  # of an activation
# Octaves by which a step varies in training. A batch norm behind values that are all rounded to
# zero would else multiply by hundreds what survives the slightly finer step that a format finds.
_JITTER = 0.25
_SMALLEST = 1e-24  # scale of a channel, or an activation, that is zero everywhere
_SMALLEST_GAIN = 1e-12
# Share of an old extreme that is kept per step: what is seen in some 100 steps counts, about as
# many samples as a runtime is calibrated with.
_KEPT = 0.99


def on_grid(weight: Tensor, axis: int = 0) -> Tensor:
    """A weight rounded to its int8 grid; gradients pass as if it had not been.

    Args:
        weight: any shape.
        axis: of the output channels.
    """
    others = [place for place in range(weight.ndim) if place != axis]
    scale = (weight.detach().abs().amax(others) / LEVELS).clamp_min(_SMALLEST)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -LEVELS, LEVELS)


def run_rounded(layer: nn.Module, norm: Norm | None, *inputs: Tensor, **named: Tensor) -> Tensor:
    """What a layer gives with its weight on the grid, and the batch norm that will be folded.

    The grid is that of the folded weight, by the norm's running statistics; the norm itself goes
    on as it does without rounding, by those of the batch while it is trained.

    Args:
        layer: convolution or linear.
        norm: of its outputs, to be folded into it; or None.
        inputs: of the layer.
        named: likewise.
    """
    weight, axis = layer.get_parameter("weight"), output_axis(layer)
    if norm is None:
        rounded = on_grid(weight, axis)
    else:
        gain = _along(gain_of(norm).detach(), axis, weight)
        rounded = on_grid(weight * gain, axis) / gain
    result: Tensor = functional_call(layer, {"weight": rounded}, inputs, named)
    return result if norm is None else norm(result)


def _along(gain: Tensor, axis: int, weight: Tensor) -> Tensor:
    """Gains `(C,)` shaped to multiply a weight; never zero, which could not be divided by."""
    gain = torch.where(gain.abs() < _SMALLEST_GAIN, _SMALLEST_GAIN, gain).to(weight.dtype)
    shape = [1] * weight.ndim
    shape[axis] = -1
    return gain.reshape(shape)


def round_weight(layer: nn.Module) -> None:
    """Put the weight of a layer on the grid, for good."""
    weight = layer.get_parameter("weight")
    with torch.no_grad():
        weight.copy_(on_grid(weight, output_axis(layer)))


class ActivationGrid(nn.Module):
    """Rounds an activation to 256 steps between its recent extremes.

    The extremes are observed while training: a new one counts at once, an old one fades. They are
    buffers, so a resumed training has them. In eval mode those of the batch count as well, but are
    not remembered: nothing is ever clipped. The formats are calibrated by extremes of samples that
    the training did not see, and a network that lives on clipping fails there.
    In training the step varies a little, for no format finds exactly the range that was trained on.

    What was never observed passes as it is, and so does everything that is no tensor of floats.
    """

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Any) -> Any:
        """`x` on the grid, same shape."""
        if not _is_float(x):
            return x
        if not self.training and not self.seen:
            return x
        low, high = torch.aminmax(x.detach().float())
        low, high = low.clamp_max(0), high.clamp_min(0)
        if self.training:
            self._observe(low, high)
        low, high = torch.minimum(low, self.low), torch.maximum(high, self.high)
        scale = ((high - low) / STEPS).clamp_min(_SMALLEST)
        if self.training:
            scale = scale * 2 ** (_JITTER * (2 * torch.rand_like(scale) - 1))
        zero = (-low / scale).round().to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, STEPS)

    def _observe(self, low: Tensor, high: Tensor) -> None:
        faded_low, faded_high = low.lerp(self.low, _KEPT), high.lerp(self.high, _KEPT)
        fresh = ~self.seen
        self.low.copy_(torch.where(fresh, low, torch.minimum(low, faded_low)))
        self.high.copy_(torch.where(fresh, high, torch.maximum(high, faded_high)))
        self.seen.fill_(value=True)


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
