"""How well the gradients of single samples agree, by the student's pass rate.

For the gradients g_1 .. g_n of the samples of one decile of pass rates, over all parameters:

    S^2 = sum_i |g_i - mean g|^2 / (n - 1)
    SNR = sqrt(max(0, |mean g|^2 - S^2 / n)) / S

that is, the norm of the mean gradient over the root of the mean squared deviation from it. The
`S^2 / n` is taken off because the mean of n gradients of pure noise still has a norm: without it, a
decile of few samples would look better than one of many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..contracts import Figure
from .modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from ..contracts import Study

    Loss = Callable[[Tensor, Tensor], Tensor]
    Gradients = Callable[[nn.Module, Mapping[str, Tensor], Tensor, Loss], Tensor]

DECILES = 10
SAMPLES, SAMPLES_ONE_BY_ONE = 512, 256
FEWEST = 5  # samples of a decile that say anything about their spread
CHUNK_NUMBERS = 2**24  # of a chunk's gradients: 64 MiB


@dataclass(frozen=True, slots=True)
class Decile:
    """The gradients of samples of like pass rate.

    Attributes:
        centre: of the decile: 0.05, 0.15, ...
        count: samples that were looked at.
        snr: as in the module's formula; nan where it cannot be told (fewer than two samples, or
            no deviation at all).
    """

    centre: float
    count: int
    snr: float


def figures(
    study: Study, rates: Tensor, loss: Loss, weigh: Callable[[Tensor], Tensor]
) -> tuple[Figure, Figure]:
    """The diagnostic of a trained student, and how its pass rates are spread.

    Args:
        study: gives the student, the teacher's logits and the samples.
        rates: pass rate of each training sample `(N,)`.
        loss: of logits `(n, C)` of student and teacher; a mean over `n`.
        weigh: weights of pass rates, drawn beside the measured ratio.
    """
    deciles = _study_deciles(study, rates, loss)
    return _snr_figure(deciles, weigh), _spread_figure(rates)


def decile_numbers(rates: Tensor) -> Tensor:
    """Decile 0 to 9 of pass rates from 0 to 1 `(N,)`; the last one takes 1 itself."""
    return (rates * DECILES).long().clamp(0, DECILES - 1)


def draw_by_decile(rates: Tensor, count: int, seed: int) -> Tensor:
    """Rows of about `count` samples, as many of each decile as it has, at most a tenth `(n,)`."""
    import torch

    order = torch.randperm(len(rates), generator=torch.Generator().manual_seed(seed))
    deciles = decile_numbers(rates)[order]
    rows = [order[deciles == decile][: count // DECILES] for decile in range(DECILES)]
    return torch.cat(rows)


def measure_deciles(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    teacher: Tensor,
    rates: Tensor,
    loss: Loss,
    gradients: Gradients | None = None,
) -> list[Decile]:
    """The signal-to-noise ratio of the gradients in every decile of pass rates.

    Args:
        network: the student; run in eval mode, and left in the mode that it was in.
        inputs: input name -> `(n, ...)`.
        teacher: logits `(n, C)`.
        rates: pass rates `(n,)`.
        loss: of logits of student and teacher, each `(1, C)`.
        gradients: `gradients_at_once` or `gradients_one_by_one`.
    """
    import torch

    gradients = gradients or gradients_at_once
    size = sum(parameter.numel() for parameter in _trained(network).values())
    sums = torch.zeros(DECILES, size, dtype=torch.float64)
    squares, counts = torch.zeros(2, DECILES, dtype=torch.float64)
    numbers = decile_numbers(rates)
    with evaluating(network):
        for rows in torch.split(torch.arange(len(rates)), max(1, min(64, CHUNK_NUMBERS // size))):
            chunk = {name: values[rows] for name, values in inputs.items()}
            each = gradients(network, chunk, teacher[rows], loss).cpu().double()
            sums.index_add_(0, numbers[rows], each)
            squares.index_add_(0, numbers[rows], each.square().sum(dim=1))
            counts.index_add_(0, numbers[rows], torch.ones(len(rows), dtype=torch.float64))
    return [_decile(i, sums[i], float(squares[i]), int(counts[i])) for i in range(DECILES)]


def gradients_at_once(
    network: nn.Module, inputs: Mapping[str, Tensor], teacher: Tensor, loss: Loss
) -> Tensor:
    """Gradient of each sample's loss by all parameters `(n, P)`, vectorised over the samples.

    Raises:
        RuntimeError: the network does what torch.vmap cannot follow, such as branching on values.
    """
    import torch
    from torch.func import functional_call, grad, vmap

    def sample_loss(
        parameters: dict[str, Tensor], sample: dict[str, Tensor], target: Tensor
    ) -> Tensor:
        args, kwargs = _arguments({name: value[None] for name, value in sample.items()})
        logits = functional_call(network, parameters, args, kwargs)
        return loss(logits.float(), target[None])

    trained = {name: value.detach() for name, value in _trained(network).items()}
    device = next(iter(trained.values())).device
    samples = {name: value.to(device) for name, value in inputs.items()}
    each = vmap(grad(sample_loss), in_dims=(None, 0, 0))(trained, samples, teacher.to(device))
    return torch.cat([each[name].flatten(1) for name in trained], dim=1)


def gradients_one_by_one(
    network: nn.Module, inputs: Mapping[str, Tensor], teacher: Tensor, loss: Loss
) -> Tensor:
    """What `gradients_at_once` gives, for any network, slowly."""
    import torch

    parameters = list(_trained(network).values())
    device, rows = parameters[0].device, []
    for i in range(len(teacher)):
        args, kwargs = _arguments({k: v[i : i + 1].to(device) for k, v in inputs.items()})
        value = loss(network(*args, **kwargs).float(), teacher[i : i + 1].to(device))
        found = torch.autograd.grad(value, parameters, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)


def _study_deciles(study: Study, rates: Tensor, loss: Loss) -> list[Decile]:
    teacher = study.teacher_logits("train")

    def measure(gradients: Gradients, count: int) -> list[Decile]:
        rows = draw_by_decile(rates, count, study.seed)
        inputs, _ = study.samples(rows)
        return measure_deciles(study.network, inputs, teacher[rows], rates[rows], loss, gradients)

    if not _convolves(study.network):
        try:
            return measure(gradients_at_once, SAMPLES)
        except RuntimeError:  # not for torch.vmap; what is really wrong comes up again below
            pass
    return measure(gradients_one_by_one, SAMPLES_ONE_BY_ONE)


def _convolves(network: nn.Module) -> bool:
    """Whether vectorising makes it slower: weight gradients of grouped convolutions."""
    from torch import nn

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return any(isinstance(module, kinds) for module in network.modules())


def _decile(number: int, total: Tensor, squares: float, count: int) -> Decile:
    """From the sum of `count` gradients `(P,)` and the sum of their squared norms."""
    centre = (number + 0.5) / DECILES
    if count < 2:
        return Decile(centre, count, math.nan)
    mean_square = float((total / count).square().sum())
    spread = (squares - count * mean_square) / (count - 1)
    if spread <= 1e-12 * squares:  # rounding of the difference, or nothing but zeros
        return Decile(centre, count, math.nan)
    return Decile(centre, count, math.sqrt(max(0.0, mean_square - spread / count) / spread))


def _snr_figure(deciles: Sequence[Decile], weigh: Callable[[Tensor], Tensor]) -> Figure:
    import torch

    told = [d for d in deciles if d.count >= FEWEST and not math.isnan(d.snr)]
    centres = torch.tensor([d.centre for d in deciles])
    counts = ", ".join(str(d.count) for d in deciles)
    return Figure(
        "Do the gradients agree where PACED weighs most?",
        "pass rate p of the student",
        "signal-to-noise ratio; weight",
        {
            "gradient SNR": ([d.centre for d in told], [d.snr for d in told]),
            "weight w(p)": (centres.tolist(), weigh(centres).tolist()),
        },
        "The kernel supposes that the ratio falls at both ends. Measured on the trained student,"
        f" against the final teacher, over {counts} training samples per decile of p; a decile of"
        f" fewer than {FEWEST} is left out.",
    )


def _spread_figure(rates: Tensor) -> Figure:
    counts = decile_numbers(rates).bincount(minlength=DECILES)
    centres = [(i + 0.5) / DECILES for i in range(DECILES)]
    return Figure(
        "Pass rates of the training samples",
        "pass rate p of the student",
        "% of samples",
        {"trained student": (centres, (100 * counts / len(rates)).tolist())},
        "Samples near 0 and 1 weigh little.",
    )


def _trained(network: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def _arguments(inputs: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """A single input goes by position, several by name."""
    return (tuple(inputs.values()), {}) if len(inputs) == 1 else ((), inputs)
