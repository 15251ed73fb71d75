"""Sparse parity: the product of a few hidden coordinates among many, learned from fresh samples."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SparseParityTask:
    """Labels of uniform `+-1` vectors: class 1 where the first `degree` coordinates multiply to -1.

    Attributes:
        dimensions: length of a vector.
        degree: coordinates that matter, the support.
    """

    dimensions: int
    degree: int

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Vectors `(count, dimensions)`, fp32, and labels `(count,)`, int64."""
        bits = torch.randint(0, 2, (count, self.dimensions), generator=random)
        labels = (bits[:, : self.degree] == 0).sum(1) % 2
        return (2 * bits - 1).float(), labels

    def monomials(self, degree: int, inside: bool) -> list[tuple[int, ...]]:
        """Products of `degree` coordinates, all inside the support or as many wholly outside it."""
        every = list(itertools.combinations(range(self.degree), degree))
        if inside:
            return every
        free = range(self.degree, self.dimensions)
        return list(itertools.islice(itertools.combinations(free, degree), len(every)))

    def correlations(self, inputs: Tensor, labels: Tensor, inside: bool) -> list[float]:
        """How much labels tell of the monomials of each degree from 1 to that of the support.

        Args:
            inputs: vectors `(N, dimensions)`.
            labels: of some model, `(N,)`.
            inside: ask for monomials of the support; else for as many outside it.

        Returns:
            Mean over the monomials of a degree of |E[(1 - 2 label) * monomial]|.
        """
        signs = 1 - 2 * labels.float()
        degrees = range(1, self.degree + 1)
        chosen = [self.monomials(degree, inside) for degree in degrees]
        return [fmean(abs(_mean_product(signs, inputs, m)) for m in group) for group in chosen]


def _mean_product(signs: Tensor, inputs: Tensor, monomial: tuple[int, ...]) -> float:
    return float((signs * inputs[:, list(monomial)].prod(1)).mean())
