"""Several methods as one: `distill: {method: kd, with: [paced, progressive]}`.

The method gives the loss; each of those under `with` changes what it looks at: the target, the
weight of each sample, the teacher over time, or the network that is trained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..contracts import Batch, Figure, Method, Moment, Needs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from ..contracts import Study


class Composed(Method):
    """A method, and those that change what it looks at.

    Args:
        main: gives the loss.
        others: in the order in which they act; `faults` found nothing wrong with them.
    """

    def __init__(self, main: Method, others: Sequence[Method]) -> None:
        self.main, self.others = main, tuple(others)
        self.needs = _joined([method.needs for method in (*self.others, main)])
        if any("target" in other.gives for other in self.others):
            # The target takes the place of the logits: the head is never asked.
            self.needs = replace(self.needs, teacher=False)

    def adopt(self, student: nn.Module) -> nn.Module:
        for method in self._all():
            student = method.adopt(student)
        return student

    def helpers(self, study: Study) -> nn.Module | None:
        from torch import nn

        found = {_key(m): m.helpers(study) for m in self._all()}
        return nn.ModuleDict({key: value for key, value in found.items() if value is not None})

    def begin_epoch(self, study: Study, helpers: nn.Module | None) -> Mapping[str, float]:
        told = {m.name: m.begin_epoch(study, _own(helpers, m)) for m in self._all()}
        return {f"{name}: {key}": v for name, part in told.items() for key, v in part.items()}

    def checkpoint(self, moment: Moment) -> int | None:
        named = (m.checkpoint(moment) for m in self._all())
        return next((epoch for epoch in named if epoch is not None), None)

    def adapt(self, batch: Batch, helpers: nn.Module | None) -> Batch:
        for method in self._all():
            batch = method.adapt(batch, _own(helpers, method))
        return batch

    def loss(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        parts = dict(self.main.loss(batch, _own(helpers, self.main)))
        for method in self.others:
            terms = method.terms(batch, _own(helpers, method))
            parts |= {f"{method.name}: {name}": value for name, value in terms.items()}
        return parts

    def figures(self, study: Study, helpers: nn.Module | None) -> Sequence[Figure]:
        return [figure for m in self._all() for figure in m.figures(study, _own(helpers, m))]

    def finish(self, network: nn.Module) -> nn.Module:
        for method in reversed(list(self._all())):
            network = method.finish(network)
        return network

    def _all(self) -> Iterator[Method]:
        yield from self.others
        yield self.main


def faults(main: type[Method], others: Sequence[type[Method]]) -> list[str]:
    """What is wrong with a composition, one sentence each."""
    found, giver = [], dict[str, str]()
    for other in others:
        if not other.gives:
            found.append(f"{other.name} cannot stand under `with`: it changes nothing for others")
        for thing in sorted(other.gives):
            if thing in giver:
                found.append(f"{giver[thing]} and {other.name} both change the {thing}")
            elif thing not in main.takes:
                found.append(f"{main.name} takes no {thing}, which {other.name} would change")
            giver[thing] = other.name
    if {"target", "checkpoint"} <= giver.keys():
        target, checkpoint = giver["target"], giver["checkpoint"]
        why = "its probes are fitted to the final teacher"
        found.append(f"{target} and {checkpoint} do not go together: {why}")
    return found


def _key(method: Method) -> str:
    return method.name.replace(".", "_")  # a module's name may hold no dot


def _own(helpers: nn.Module | None, method: Method) -> nn.Module | None:
    from torch import nn

    if not isinstance(helpers, nn.ModuleDict) or _key(method) not in helpers:
        return None
    return helpers[_key(method)]


def _joined(needs: Sequence[Needs]) -> Needs:
    """All that any of them needs."""

    def union(name: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(tap for part in needs for tap in getattr(part, name)))

    return Needs(
        labels=any(part.labels for part in needs),
        teacher=any(part.teacher for part in needs),
        student_taps=union("student_taps"),
        teacher_taps=union("teacher_taps"),
        checkpoints=any(part.checkpoints for part in needs),
    )
