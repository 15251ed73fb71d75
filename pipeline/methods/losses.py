"""Loss terms that several methods share. Pure functions of logits, fp32 in, fp32 scalars out.

A weighted mean here is the sum of `w_i * loss_i` over `N`, never over the sum of the weights: a
batch in which most weights are near zero must not blow the others up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mean_over_batch(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of `(N,)` losses, each times its weight if there are weights `(N,)`."""
    return losses.mean() if weights is None else (losses * weights).mean()


def soft_divergence(
    student: Tensor, teacher: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """T^2 KL(teacher || student) at a temperature, mean over the batch.

    Args:
        student: logits `(N, C)`.
        teacher: logits `(N, C)`.
        temperature: T > 0; T^2 keeps the gradient at one scale for every T.
        weights: of each sample `(N,)`.
    """
    import torch.nn.functional as F

    log_p_student = F.log_softmax(student / temperature, dim=1)
    log_p_teacher = F.log_softmax(teacher / temperature, dim=1)
    return _divergence(log_p_teacher, log_p_student, temperature, weights)


def reverse_divergence(
    student: Tensor, teacher: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """T^2 KL(student || teacher) at a temperature, mean over the batch; see `soft_divergence`."""
    import torch.nn.functional as F

    log_p_student = F.log_softmax(student / temperature, dim=1)
    log_p_teacher = F.log_softmax(teacher / temperature, dim=1)
    return _divergence(log_p_student, log_p_teacher, temperature, weights)


def _divergence(log_p: Tensor, log_q: Tensor, temperature: float, weights: Tensor | None) -> Tensor:
    """T^2 KL(p || q), mean over the batch."""
    import torch.nn.functional as F

    if weights is None:
        divergence = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    else:
        each = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
        divergence = mean_over_batch(each, weights)
    return divergence * temperature**2


def hard_label_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy with the teacher's arg-max as the label, mean over the batch.

    Args:
        student: logits `(N, C)`.
        teacher: logits `(N, C)`.
        weights: of each sample `(N,)`.
    """
    import torch.nn.functional as F

    labels = teacher.argmax(dim=1)
    if weights is None:
        return F.cross_entropy(student, labels)
    return mean_over_batch(F.cross_entropy(student, labels, reduction="none"), weights)


def standardize(logits: Tensor) -> Tensor:
    """Z-score of every row: `(z - mean(z)) / std(z)` over its classes.

    What is left of a row is the order and the spacing of its logits: adding a constant to it or
    multiplying it by a positive one changes nothing. A row of equal logits becomes zeros, with
    finite gradients.

    Args:
        logits: `(N, C)`.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    variance = centred.square().mean(dim=1, keepdim=True)
    # Clamped under the root, whose slope at zero is infinite.
    return centred / variance.clamp_min(1e-12).sqrt()
