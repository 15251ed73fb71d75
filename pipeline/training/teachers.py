"""All that teach in one training: the final teacher and its checkpoints, live or stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ..models.build import keeping_modes
from .signals import LiveTeacher
from .stored import StoredTeacher
from .taps import shapes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor

    from ..contracts import Needs, Tap
    from .signals import Signals, Teacher, TeacherSource
    from .views import View, Views

    Planned: TypeAlias = Sequence[tuple[int | None, Tensor, Tensor]]  # who, rows, views

_OPEN = 3  # teachers held in memory: one leaves, one comes, and the final one


class Teachers:
    """Asked by the loop for the signals of a view, of the teacher that a method names.

    Args:
        source: gives the models.
        needs: which of their features are wanted.
        views: of the split that is learned from.
        device: where live teachers compute.
    """

    def __init__(
        self, source: TeacherSource, needs: Needs, views: Views, device: torch.device
    ) -> None:
        self.source, self.taps, self.logits = source, needs.teacher_taps, needs.teacher
        self.views, self.device = views, device
        self._live: dict[int | None, LiveTeacher] = {}
        self._asked: dict[int | None, Teacher] = {}

    def expect(self, planned: Planned) -> None:
        """Told ahead who will be asked for which views."""
        for who in dict.fromkeys(who for who, _, _ in planned):
            steps = [(index, code) for name, index, code in planned if name == who]
            self._ask(who).expect(steps)

    def signals(self, who: int | None, view: View, inputs: Mapping[str, Tensor]) -> Signals:
        """Signals of a view, by the checkpoint after an epoch, or by the final teacher (None)."""
        return self._ask(who).signals(view, inputs)

    def flush(self) -> None:
        """An epoch is over."""
        for teacher in self._asked.values():
            teacher.flush()

    def live(self, who: int | None = None) -> LiveTeacher:
        """The model itself."""
        if who not in self._live:
            self._forget()
            self._live[who] = LiveTeacher(self.source.load(who), self.device, self.taps)
        return self._live[who]

    def shape(self, tap: Tap) -> tuple[int, ...]:
        """Shape of a feature of one sample."""
        live = self.live()
        index, code = self.views.steps(0)[0]
        inputs = self.views.inputs(index[:2], code[:2])
        with keeping_modes(live.model):
            return shapes(live.tapped, {k: v.to(self.device) for k, v in inputs.items()})[tap]

    def _ask(self, who: int | None) -> Teacher:
        if who not in self._asked:
            live, cache = self.live(who), self.source.cache
            self._asked[who] = (
                live
                if cache is None
                else StoredTeacher(live, self.views, cache, self.source.key(who), self.logits)
            )
        return self._asked[who]

    def _forget(self) -> None:
        """Let the checkpoint go that came first."""
        if len(self._live) >= _OPEN:
            oldest = next(who for who in self._live if who is not None)
            del self._live[oldest]
            if oldest in self._asked:
                self._asked.pop(oldest).flush()
