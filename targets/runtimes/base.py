"""What a runtime looks like to the worker: each module here has `load(...) -> Runtime`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ...pipeline.contracts import Array, Arrays, TensorSpec


class Runtime(Protocol):
    """A model file that is loaded and ready.

    Attributes:
        inputs: names, shapes and dtypes as the FILE has them, in call order.
        outputs: the same of the outputs.
        device: where it runs, as the runtime says.
        precision: the arithmetic that is really used, as far as the runtime tells.
        version: of the runtime.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    device: str
    precision: str
    version: str

    def run(self, feeds: Arrays) -> list[Array]:
        """One call; outputs in the order of `outputs`, owned by the caller."""

    def prepare(self, feeds: Arrays) -> Callable[[], object]:
        """One inference as a call without arguments, for timing.

        Everything that a program does once is done here. The call leaves the outputs as NumPy
        arrays, since that is what a program waits for.
        """


class Load(Protocol):
    """The `load` function of a runtime's module."""

    def __call__(self, path: Path, precision: str, threads: int) -> Runtime:
        """Load the file.

        Raises:
            TargetError: the file is none that we can run as asked.
        """
