"""Many small MLPs of one shape as one tensor program: all seeds and arms of an experiment at once.

Every tensor of a group of `S` networks carries the network as its first axis. Networks never touch
each other: each has its own weights, its own gradient and its own clipping. What a group gives is
what its members give one by one, in a fraction of the time.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


class BatchedMLP:
    """`S` networks Linear, ReLU, ..., Linear of the same sizes.

    Attributes:
        weights: one per layer, `(S, in, out)`.
        biases: one per layer, `(S, 1, out)`.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        self.weights = list(weights)
        self.biases = list(biases)

    @classmethod
    def initialised(cls, sizes: Sequence[int], seeds: Sequence[int]) -> BatchedMLP:
        """Networks as `nn.Linear` makes them after `torch.manual_seed(seed)`, one per seed.

        Args:
            sizes: widths from the input to the logits, such as `(64, 32, 10)`.
            seeds: one per network; equal seeds give equal networks.
        """
        layers = [_draw_layers(sizes, seed) for seed in seeds]
        weights = [torch.stack([net[i][0] for net in layers]) for i in range(len(sizes) - 1)]
        biases = [torch.stack([net[i][1] for net in layers]) for i in range(len(sizes) - 1)]
        return cls(weights, biases)._trainable()

    def __len__(self) -> int:
        return len(self.weights[0])

    @property
    def parameters(self) -> list[Tensor]:
        """Weight and bias of every layer, in order."""
        return [p for pair in zip(self.weights, self.biases, strict=True) for p in pair]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits `(S, N, C)` of inputs `(S, N, in)`, or of `(N, in)` that all networks share."""
        return self.layer(-1, self.hidden(inputs)[-1] if len(self.weights) > 1 else inputs)

    def hidden(self, inputs: Tensor) -> list[Tensor]:
        """Features `(S, N, width)` after each ReLU."""
        features: list[Tensor] = []
        for i in range(len(self.weights) - 1):
            features.append(self.layer(i, features[-1] if features else inputs).relu())
        return features

    def layer(self, index: int, inputs: Tensor) -> Tensor:
        """One Linear of every network, `(S, N, in)` to `(S, N, out)`; index -1 is the head."""
        return torch.baddbmm(
            self.biases[index], inputs.expand(len(self), -1, -1), self.weights[index]
        )

    def copy(self) -> BatchedMLP:
        """The networks as they are now, frozen."""
        return BatchedMLP(
            [w.detach().clone() for w in self.weights], [b.detach().clone() for b in self.biases]
        )

    def select(self, nets: Sequence[int]) -> BatchedMLP:
        """Some of the networks, or all in another order or repeated, as copies to be trained."""
        rows = torch.tensor(list(nets), dtype=torch.long)
        return BatchedMLP(
            [w.detach()[rows] for w in self.weights], [b.detach()[rows] for b in self.biases]
        )._trainable()

    def _trainable(self) -> BatchedMLP:
        for parameter in self.parameters:
            parameter.requires_grad_()
        return self


def _draw_layers(sizes: Sequence[int], seed: int) -> list[tuple[Tensor, Tensor]]:
    """Weight `(in, out)` and bias `(1, out)` of each layer of one network."""
    random = torch.Generator().manual_seed(seed)
    layers = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        weight, bias = torch.empty(fan_out, fan_in), torch.empty(1, fan_out)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=random)
        bound = 1 / math.sqrt(fan_in)
        nn.init.uniform_(bias, -bound, bound, generator=random)
        layers.append((weight.t(), bias))
    return layers


class BatchedSGD:
    """SGD as `torch.optim.SGD` does it, for parameters `(S, ...)` of `S` independent networks.

    Args:
        parameters: leaves with the network as their first axis.
        lr: learning rate.
        momentum: share of the last step that is kept.
        weight_decay: added to the gradient, times the weight.
        clip: largest gradient norm of one network over all its parameters; None is no limit.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip: float | None = None,
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.momentum, self.weight_decay, self.clip = lr, momentum, weight_decay, clip
        self._velocity: list[Tensor] = []

    def step(self, loss: Tensor, share: float = 1.0) -> None:
        """Go one step down.

        Args:
            loss: a scalar, the SUM of the networks' losses; a mean over all rows `(S * N)` must
                be multiplied by `S`, or every network learns `S` times too slowly.
            share: of the learning rate, such as `cosine(step, steps)`.
        """
        gradients = list(torch.autograd.grad(loss, self.parameters))
        with torch.no_grad():
            if self.clip is not None:
                _clip_each(gradients, self.clip)
            if self.weight_decay:
                torch._foreach_add_(gradients, self.parameters, alpha=self.weight_decay)
            torch._foreach_add_(self.parameters, self._moved(gradients), alpha=-self.lr * share)

    def _moved(self, gradients: list[Tensor]) -> list[Tensor]:
        """The direction of the step: the gradients, or the velocity."""
        if not self.momentum:
            return gradients
        if self._velocity:
            torch._foreach_mul_(self._velocity, self.momentum)
            torch._foreach_add_(self._velocity, gradients)
        else:
            self._velocity = gradients
        return self._velocity


def _clip_each(gradients: list[Tensor], limit: float) -> None:
    """Scale the gradients of each network to a norm of at most `limit`, as torch clips."""
    squares = [g.flatten(1).square().sum(1) for g in gradients]
    factor = (limit / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))


def cosine(step: int, steps: int) -> float:
    """Share of the learning rate at a step, from 1 at step 0 down to 0 at `steps`."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Accuracy `(S,)` of logits `(S, N, C)` against labels `(N,)` or `(S, N)`."""
    return (logits.argmax(dim=-1) == targets).float().mean(dim=-1)


def shuffled(count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """An order of `count` rows for each network, `(S, count)`, from a generator of its own."""
    return torch.stack([torch.randperm(count, generator=random) for random in generators])
