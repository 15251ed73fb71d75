"""A student and its dynamic teacher as one network, which answers as the student does."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from ..errors import TrainingError
from .expansion_layers import Growth

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

DYNAMIC_TEACHER = "dynamic-teacher"


class Pair(nn.Module):
    """A student and the dynamic teacher that is trained with it.

    Args:
        teacher: `forward` gives logits `(N, C)`.
        taps: names of the student's own layers, in order.
    """

    def __init__(self, teacher: nn.Module, taps: tuple[str, ...]) -> None:
        super().__init__()
        self.teacher = teacher
        self.taps = taps

    def student(self) -> nn.Module:
        """A plain copy of the student as it is now, with its original keys."""
        raise NotImplementedError

    def student_pass(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits `(N, C)` of the student, and the outputs of some of its layers."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, C)` of the student."""
        return self.student_pass(x, ())[0]

    def forward_with_taps(
        self, x: Tensor, names: Collection[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits `(N, C)` of the student, and features by name.

        Args:
            x: `(N, ...)`.
            names: layers of the student, and `dynamic-teacher` for the dynamic teacher's logits.

        Raises:
            TrainingError: a layer of a student that has no `forward_with_taps`.
        """
        own = [name for name in names if name != DYNAMIC_TEACHER]
        with parametrize.cached():  # branches are merged once for both passes
            logits, features = self.student_pass(x, own)
            if DYNAMIC_TEACHER in names:
                features = {**features, DYNAMIC_TEACHER: self.teacher(x)}
        return logits, features


class Shared(Pair):
    """The student as a view of the dynamic teacher, which owns all weights.

    Buffers (the statistics of batch norm) are two sets: each network normalises by its own.

    Args:
        student: read, not kept.
        teacher: the student, grown by `plan`.
        plan: the layers that are larger in the teacher.
        ratio: how many times larger.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, plan: Mapping[str, Growth], ratio: int
    ) -> None:
        super().__init__(teacher, tap_names(student))
        self.plan, self.ratio = dict(plan), ratio
        # In a tuple, so that torch takes it for no part of this network: it runs the student's code
        # with tensors that are handed to it, and its own parameters are never used.
        self._skeleton = (_Body(copy.deepcopy(student)),)
        self.own = nn.Module()
        for name, buffer in student.named_buffers():
            self.own.register_buffer(name.replace(".", "/"), buffer.clone())

    def tensors(self) -> dict[str, Tensor]:
        """Parameters of the student, as views of the teacher's, and its own buffers, by name."""
        names = self._skeleton[0].body.named_parameters()
        buffers = {name.replace("/", "."): buffer for name, buffer in self.own.named_buffers()}
        return {name: self._view(name, old.shape) for name, old in names} | buffers

    def student(self) -> nn.Module:
        body = copy.deepcopy(self._skeleton[0].body).train(self.training)
        places: dict[str, Tensor] = {**dict(body.named_parameters()), **dict(body.named_buffers())}
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                places[name].copy_(tensor)
        return body

    def student_pass(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        (skeleton,) = self._skeleton
        if skeleton.training != self.training:
            skeleton.train(self.training)
        tensors = {f"body.{name}": tensor for name, tensor in self.tensors().items()}
        given: tuple[Tensor, dict[str, Tensor]] = functional_call(skeleton, tensors, (x, names))
        return given

    def replica_divergence(self) -> float:
        """Largest difference between the student's rows and their first copy, over all layers."""
        layers = [self.teacher.get_submodule(n) for n, g in self.plan.items() if g.outputs]
        found: list[Tensor | None] = [getattr(layer, "weight", None) for layer in layers]
        weights = [weight.detach() for weight in found if weight is not None]
        pairs = (weight.chunk(self.ratio)[:2] for weight in weights)
        return max(float((first - second).abs().max()) for first, second in pairs)

    def _view(self, name: str, shape: Sequence[int]) -> Tensor:
        layer, _, kind = name.rpartition(".")
        tensor: Tensor = getattr(self.teacher.get_submodule(layer), kind)
        growth = self.plan.get(layer)
        if growth is None:
            return tensor
        growth = growth if kind == "weight" else Growth(inputs=False, outputs=growth.outputs)
        return growth.read(tensor, shape, self.ratio)


class Apart(Pair):
    """A student and a dynamic teacher that share nothing.

    Args:
        student: kept as it is.
        teacher: any network; `forward` gives logits `(N, C)`.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__(teacher, tap_names(student))
        self.body = _Body(student)

    def student(self) -> nn.Module:
        return copy.deepcopy(self.body.body)

    def student_pass(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        given: tuple[Tensor, dict[str, Tensor]] = self.body(x, names)
        return given


class _Body(nn.Module):
    """Runs a student for its logits and some of its features."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        if not names:
            return self.body(x), {}
        reader: Any = getattr(self.body, "forward_with_taps", None)
        if reader is None:
            raise TrainingError(
                f"layer {names[0]!r} of {type(self.body).__name__} cannot be read beside the"
                " dynamic teacher",
                "give it a method forward_with_taps(x, names) -> (logits, {name: feature})",
            )
        given: tuple[Tensor, dict[str, Tensor]] = reader(x, names)
        return given


def tap_names(student: nn.Module) -> tuple[str, ...]:
    """The student's own list of layers to tap, or its direct children."""
    own = getattr(student, "taps", None)
    return tuple(own) if own is not None else tuple(name for name, _ in student.named_children())
