"""The fastest way to compute a teacher's signals that agrees with torch in fp32.

On a CPU a network that OpenVINO compiled needs about two thirds of the time that torch does, and a
third in bf16; see docs/benchmarks.md. The choice never hangs on a clock, so that the same work
always gives the same signals: OpenVINO where there is enough work to pay for compiling, it is
installed, can take the model and agrees; torch otherwise. bf16 is only tried where the tolerance
leaves room for it and the CPU computes in it.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .signals import LiveTeacher, Signals

if TYPE_CHECKING:
    from collections.abc import Mapping

BATCH = 128
WORTH_COMPILING = 1e11  # operations: about a second of torch on two cores, as long as compiling
TOLERANCE = 1e-3  # of the largest value; what is stored is rounded to fp16, which is half of it
BF16_ROUNDING = 2.0**-8  # of one value; a network of many layers comes out with about twice of it


class Engine(Protocol):
    """Computes signals of inputs, batch after batch.

    Attributes:
        name: of what computes.
    """

    name: str

    def compute(self, inputs: Mapping[str, Tensor]) -> Signals:
        """Signals of any number of samples, on the CPU."""


class TorchEngine:
    """The live teacher itself, in large batches."""

    name = "torch"

    def __init__(self, teacher: LiveTeacher) -> None:
        self.teacher = teacher

    def compute(self, inputs: Mapping[str, Tensor]) -> Signals:
        return self.teacher.compute(inputs).to(torch.device("cpu"))


class OpenVinoEngine:
    """The same network, compiled by OpenVINO for one batch size.

    Args:
        teacher: whose network and taps.
        example: inputs `(N, ...)` by name; N is at least 2.
        precision: of the arithmetic, `f32` or `bf16`.
    """

    def __init__(
        self, teacher: LiveTeacher, example: Mapping[str, Tensor], precision: str = "f32"
    ) -> None:
        import openvino

        self.name = f"openvino {precision}"
        self.taps = list(teacher.tapped.layers)
        flat = _Flat(teacher, tuple(example)).eval()
        given = tuple(value[:2] for value in example.values())
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer's advice is for its own users
            traced = torch.jit.trace(flat, given, check_trace=False)  # type: ignore[no-untyped-call]
            network = openvino.convert_model(traced, example_input=given)
        ports = zip(network.inputs, given, strict=True)
        network.reshape({port: [BATCH, *value.shape[1:]] for port, value in ports})
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self._request = (
            openvino.Core().compile_model(network, "CPU", settings).create_infer_request()
        )

    def compute(self, inputs: Mapping[str, Tensor]) -> Signals:
        total = len(next(iter(inputs.values())))
        parts = [
            self._compute([value[start : start + BATCH] for value in inputs.values()])
            for start in range(0, total, BATCH)
        ]
        logits, *features = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
        return Signals(logits, dict(zip(self.taps, features, strict=True)))

    def _compute(self, inputs: list[Tensor]) -> list[Tensor]:
        """One batch, filled up with copies of its first sample."""
        count = len(inputs[0])
        filled = [
            torch.cat([x, x[:1].expand(BATCH - count, *x.shape[1:])]) if count < BATCH else x
            for x in inputs
        ]
        results: Any = self._request.infer([x.contiguous().numpy() for x in filled])
        return [torch.from_numpy(value[:count].copy()) for value in results.values()]


class _Flat(nn.Module):
    """Tensors in, tensors out: logits, then each feature."""

    def __init__(self, teacher: LiveTeacher, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = teacher.model
        self._tapped, self._names = teacher.tapped, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        logits, features = self._tapped(dict(zip(self._names, inputs, strict=True)))
        return logits, *features.values()


def fastest(
    teacher: LiveTeacher,
    example: Mapping[str, Tensor],
    samples: int,
    tolerance: float = TOLERANCE,
) -> Engine:
    """The engine for a teacher.

    Args:
        teacher: gives the signals that must be met.
        example: some inputs `(N, ...)`, N at least 2, on which agreement is checked.
        samples: how many it will be asked for, roughly.
        tolerance: how far signals may be off, as a share of the largest value.
    """
    reference = TorchEngine(teacher)
    if teacher.device.type != "cpu" or find_spec("openvino") is None:
        return reference
    if samples * operations(teacher, example) < WORTH_COMPILING:
        return reference
    wanted = reference.compute(example)
    for precision in _precisions(tolerance):
        try:
            compiled = OpenVinoEngine(teacher, example, precision)
            agrees = agree(wanted, compiled.compute(example), tolerance)
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            return reference  # it cannot take the model: torch is slower and always right
        if agrees:
            return compiled
    return reference


def _precisions(tolerance: float) -> list[str]:
    """Of OpenVINO's arithmetic, the fastest first."""
    import openvino

    capable = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["bf16", "f32"] if capable and tolerance > BF16_ROUNDING else ["f32"]


def operations(teacher: LiveTeacher, example: Mapping[str, Tensor]) -> float:
    """Floating-point operations of one sample: multiplications and additions of its layers."""
    counter, few = FlopCounterMode(display=False), {k: v[:2] for k, v in example.items()}
    with counter:
        teacher.compute(few)
    return float(counter.get_total_flops()) / len(next(iter(few.values())))


def agree(wanted: Signals, got: Signals, tolerance: float = TOLERANCE) -> bool:
    """Whether no signal is further from what is wanted than a share of its largest value."""
    pairs = [(wanted.logits, got.logits)]
    pairs += [(value, got.features[tap]) for tap, value in wanted.features.items()]
    return all(_close(a, b, tolerance) for a, b in pairs)


def _close(wanted: Tensor, got: Tensor, tolerance: float) -> bool:
    scale = float(wanted.abs().max())
    return bool((wanted - got).abs().max() <= tolerance * scale)
