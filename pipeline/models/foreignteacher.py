"""A teacher that is no torch module: a black box on the CPU, asked for logits like any network.

A kind says how its file is opened and run, and what is left of it in the teacher's artefact; which
input gets which data, the order of an image's axes, and batches are the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from .foreign import FOREIGN, ForeignKind, Layout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..contracts import Array, Signature, TensorSpec

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Feed:
    """How one input of the data reaches the model.

    Attributes:
        source: name of the data's input.
        name: of the model's own input.
        dtype: that the model takes.
        batch: size that the model is fixed to; None is free.
        to_nhwc: the channel axis is moved last.
    """

    source: str
    name: str
    dtype: str
    batch: int | None
    to_nhwc: bool

    def array(self, value: Tensor) -> Array:
        """A tensor of the data as the model takes it."""
        given = value.detach().cpu().numpy()
        turned = given.transpose(TO_NHWC) if self.to_nhwc else given
        return np.ascontiguousarray(turned, dtype=self.dtype)


@dataclass(frozen=True, slots=True)
class Kept:
    """What of a foreign teacher stands in an artefact.

    Attributes:
        parameters: number of weights.
        layout: of the images that the kept file takes; None where the data has no images.
    """

    parameters: int
    layout: Layout | None


class ForeignTeacher(nn.Module, ABC):
    """Asks a file for logits.

    Args:
        path: of the file or folder.
        data: what the teacher is given and what it must answer: inputs by name, the logits.
        layout: of the model's images; None decides by the shape of its input.

    Attributes:
        feeds: one per input, in the order of the data.

    Raises:
        MissingDependency: a library is not installed.
        ModelError: the file cannot be read, gives more than one output, or takes other inputs.
    """

    key: ClassVar[str]
    ordered: ClassVar[bool] = True
    """Whether the order of the file's inputs means anything."""

    def __init__(self, path: Path, data: Signature, layout: Layout | None = None) -> None:
        super().__init__()
        self.kind.require()
        self.path, self.data = path, data
        # Not an attribute of the module: a session can be neither copied nor pickled.
        self._held = _Held(self._load())
        outputs = self._outputs()
        if len(outputs) != 1:
            raise ModelError(
                f"{path.name} gives {len(outputs)} outputs ({', '.join(outputs)}); expected logits"
                " alone",
                "export it again with the logits as its only output",
            )
        matched = Matcher(path.name, self.kind.layout, layout, self.ordered)
        self.feeds = matched.feeds(self._inputs(), data.inputs)

    @property
    def kind(self) -> ForeignKind:
        """What is known of such files."""
        return FOREIGN[self.key]

    @property
    def layout(self) -> Layout | None:
        """Layout of the images that it takes; None where the data has none."""
        if not any(is_image(spec) for spec in self.data.inputs):
            return None
        return "nhwc" if any(feed.to_nhwc for feed in self.feeds) else "nchw"

    @property
    def engine(self) -> Any:
        """What `_load` gave."""
        return self._held.inner

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        return self._answer([*inputs, *named.values()], ())[0]

    @abstractmethod
    def keep(self, target: Path) -> Kept:
        """Write it where a teacher's artefact has it.

        Args:
            target: the file, or the folder, that is to be.
        """

    @abstractmethod
    def _load(self) -> Any:
        """Open the file.

        Raises:
            ModelError: it cannot be read.
        """

    @abstractmethod
    def _inputs(self) -> tuple[TensorSpec, ...]:
        """Its inputs in call order; an empty shape is an unknown one."""

    @abstractmethod
    def _outputs(self) -> tuple[str, ...]:
        """Names of its outputs."""

    @abstractmethod
    def _run(self, feeds: dict[str, Array], layers: Sequence[str]) -> list[Array]:
        """One batch: logits, and what the layers give; only a kind that has taps is asked for any.

        Args:
            feeds: by the names of the model's inputs.
            layers: names.
        """

    def _answer(self, given: Sequence[Tensor], layers: Sequence[str]) -> list[Tensor]:
        """Logits and features of any number of samples."""
        if len(given) != len(self.feeds):
            wanted = [feed.name for feed in self.feeds]
            raise ModelError(
                f"{self.path.name} takes {wanted}, and the data has {len(given)} inputs"
            )
        fixed = next((feed.batch for feed in self.feeds if feed.batch), None)
        size = fixed or _CHUNK
        starts = range(0, len(given[0]), size)
        parts = [self._piece([x[i : i + size] for x in given], fixed, layers) for i in starts]
        joined = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
        return [torch.from_numpy(value).to(given[0].device) for value in joined]

    def _piece(
        self, inputs: Sequence[Tensor], fixed: int | None, layers: Sequence[str]
    ) -> list[Array]:
        """One call; a fixed batch that is not full is filled with copies of its first sample."""
        count = len(inputs[0])
        missing = fixed - count if fixed else 0
        feeds = {}
        for feed, value in zip(self.feeds, inputs, strict=True):
            filled = torch.cat([value, value[:1].expand(missing, *value.shape[1:])])
            feeds[feed.name] = feed.array(filled)
        return [np.asarray(value, np.float32)[:count] for value in self._run(feeds, layers)]


class _Held:
    """Keeps a session out of the module's own attributes; a copy shares it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self


@dataclass(frozen=True, slots=True)
class Matcher:
    """Pairs a model's inputs with the data's.

    Attributes:
        model: its name, for messages.
        default: layout where the shapes leave it open; empty asks the user.
        layout: that the user gave.
        ordered: whether the order of its inputs means anything.
    """

    model: str
    default: str
    layout: Layout | None
    ordered: bool = True

    def feeds(self, inputs: Sequence[TensorSpec], data: Sequence[TensorSpec]) -> tuple[Feed, ...]:
        """One feed per input of the data: by name where all names are the same, else by order.

        Raises:
            ModelError: their numbers, shapes or dtypes do not fit, or the layout is not known.
        """
        theirs, ours = [port.name for port in inputs], [spec.name for spec in data]
        by_name = set(theirs) == set(ours)
        if len(theirs) != len(ours) or not (by_name or self.ordered or len(ours) == 1):
            raise ModelError(
                f"{self.model} has inputs {theirs}; the data has inputs {ours}",
                "export it again with these inputs, under these names",
            )
        if self.layout and not any(is_image(spec) for spec in data):
            raise ModelError(
                f"teacher.layout = {self.layout}: the data has no images, expected an input of"
                " three axes beside the batch",
                "remove teacher.layout",
            )
        named = {port.name: port for port in inputs}
        ordered = [named[name] for name in ours] if by_name else inputs
        return tuple(self._feed(port, spec) for port, spec in zip(ordered, data, strict=True))

    def _feed(self, port: TensorSpec, spec: TensorSpec) -> Feed:
        if not np.can_cast(spec.dtype, port.dtype, "same_kind"):
            raise ModelError(
                f"{self.model}: input {port.name!r} takes {port.dtype}; the data's {spec.name!r}"
                f" is {spec.dtype}",
                "export it again with inputs of the data's dtype",
            )
        batch = port.shape[0] if port.shape else None
        return Feed(spec.name, port.name, port.dtype, batch, self._order(port, spec) == "nhwc")

    def _order(self, port: TensorSpec, spec: TensorSpec) -> str:
        """`nchw`, as the data is, or `nhwc`."""
        orders = {"nchw": spec.shape}
        if is_image(spec):
            orders["nhwc"] = tuple(spec.shape[axis] for axis in TO_NHWC)
        fitting = [order for order, shape in orders.items() if _fits(port.shape, shape)]
        wanted = self.layout if self.layout in orders else None
        if not fitting or (wanted and wanted not in fitting):
            raise ModelError(self._misfit(port, spec, wanted), "train it on inputs of this shape")
        if wanted or len(fitting) == 1:
            return wanted or fitting[0]
        if self.default:
            return self.default
        raise ModelError(
            f"{self.model}: input {port.name!r} of shape {_words(port.shape)} takes"
            f" {_words(spec.shape)} in both orders of its axes",
            "say which one it wants: teacher.layout: nhwc (as Keras has it) or nchw",
        )

    def _misfit(self, port: TensorSpec, spec: TensorSpec, wanted: str | None) -> str:
        also = f" or {_words([spec.shape[a] for a in TO_NHWC])}" if is_image(spec) else ""
        asked = f" in the layout {wanted} of teacher.layout" if wanted else also
        return (
            f"{self.model}: input {port.name!r} has the shape {_words(port.shape)}; the data's"
            f" {spec.name!r} is {_words(spec.shape)}{asked}"
        )


def is_image(spec: TensorSpec) -> bool:
    """Whether an input of the data is an image `(N, C, H, W)`."""
    return len(spec.shape) == 4 and spec.layout in ("", "NCHW")


def _fits(taken: Sequence[int | None], given: Sequence[int | None]) -> bool:
    """Whether a model whose input has one shape takes another; the batch may always differ."""
    if not taken:
        return True  # it does not say
    pairs = list(zip(taken, given, strict=False))[1:]
    return len(taken) == len(given) and all(a in (None, b) for a, b in pairs)


def _words(shape: Sequence[int | None]) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"
