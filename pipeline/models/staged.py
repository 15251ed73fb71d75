"""The common base of the built-in networks: a chain of named blocks that can be tapped."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..errors import ModelError
from ..options import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class Staged(nn.Sequential):
    """Named blocks run one after the other; `forward(x)` gives logits `(N, C)`.

    Features are read without forward hooks, so that a tapped network can still be exported,
    compiled and copied.

    Args:
        blocks: name -> block, in order; the last one gives the logits.
    """

    def __init__(self, blocks: Mapping[str, nn.Module]) -> None:
        super().__init__(OrderedDict(blocks))

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the blocks, in order."""
        return tuple(name for name, _ in self.named_children())

    def forward_with_taps(
        self, x: Tensor, names: Collection[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and the outputs of some blocks.

        Args:
            x: `(N, ...)`.
            names: blocks whose outputs are wanted.

        Returns:
            Logits `(N, C)` and name -> feature, with gradient, in the order of the blocks.

        Raises:
            ModelError: a name that no block has.
        """
        unknown = [name for name in names if name not in self.taps]
        if unknown:
            raise ModelError(f"No tap named {unknown[0]!r}", nearest(unknown[0], self.taps))
        features = {}
        for name, block in self.named_children():
            x = block(x)
            if name in names:
                features[name] = x
        return x, features
