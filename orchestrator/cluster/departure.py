"""A node that hears what will happen to its machine: when its roles go elsewhere, and when it says: go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal

from orchestrator.model.names import ModuleName
from orchestrator.model.notice import Notice

LEAD_S: Final = 900.0
"""So long before it a node leaves: Azure's notice of most events. A retirement is announced weeks before, and
a farm that lacks a node for weeks is no help."""
RETRY_S: Final = 15.0
"""Between two attempts to give a role away: a copy gets whole meanwhile, or a node comes back."""
BUSY: Final = "HF1204"
"""Of a refusal because of another operation: that ends, and nobody need be told."""


@dataclass(frozen=True, slots=True)
class Say:
    """For people."""

    code: str
    text: str
    module: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """Order it here; `swap` of a mirror, `drain` or `undrain` of a farm's node."""

    module: ModuleName
    action: Literal["swap", "drain", "undrain"]


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell the place that the machine is ready for this one."""

    notice: Notice


@dataclass(frozen=True, slots=True)
class Keep:
    """Have it on this node's disk, before what is ordered after it."""

    drained: frozenset[ModuleName]


Effect = Say | Move | Answer | Keep


@dataclass(frozen=True, slots=True)
class Here:
    """What this node does for one module."""

    kind: Literal["mirror", "farm"]
    serves: bool
    """It is the primary, or takes new connections."""
    gone: bool
    """Nothing of the service is here: of a farm the connections have ended too."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The new state, and what is to be done, in this order."""

    state: Departure
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class Departure:
    """One node's. `leaves`: roles go elsewhere; else what is heard is told, and no more."""

    leaves: bool
    notices: Mapping[str, Notice] = field(default_factory=lambda: MappingProxyType({}))
    moving: frozenset[ModuleName] = frozenset()
    """What is ordered, and not over."""
    moved: frozenset[tuple[str, ModuleName]] = frozenset()
    """Once for each notice: two nodes that both hear one would hand a role to and fro."""
    stuck: frozenset[tuple[str, ModuleName]] = frozenset()
    """Of which people were told that it cannot leave."""
    retry_at: Mapping[ModuleName, float] = field(default_factory=lambda: MappingProxyType({}))
    answered: frozenset[str] = frozenset()
    drained: frozenset[ModuleName] = frozenset()
    """Farms that this node left because of a notice, and goes back to."""

    def looked(
        self, now: float, wall: float, found: Iterable[Notice], here: Mapping[ModuleName, Here]
    ) -> Decided:
        """What is announced now, and what is here."""
        notices = {each.key: each for each in found}
        effects: list[Effect] = [
            Say("HF7070", each.kind) for key, each in notices.items() if key not in self.notices
        ]
        effects += [
            Say("HF7073", f"it is over, or was called off: {each.kind}")
            for key, each in self.notices.items()
            if key not in notices
        ]
        known = replace(
            self,
            notices=notices,
            moved=frozenset(one for one in self.moved if one[0] in notices),
            stuck=frozenset(one for one in self.stuck if one[0] in notices),
            answered=self.answered & notices.keys(),
        )
        if not self.leaves:
            return Decided(known, tuple(effects))
        due = [each for each in notices.values() if each.at is None or each.at - wall <= LEAD_S]
        more = known._leave(now, due, here) if due else known._return(now, here)
        return Decided(more.state, (*effects, *more.effects))

    def _leave(self, now: float, due: list[Notice], here: Mapping[ModuleName, Here]) -> Decided:
        state, effects = self, list[Effect]()
        for name, module in here.items():
            new = any((each.key, name) not in self.moved for each in due)
            if not (module.serves and new and state._may_order(now, name)):
                continue
            moved = state.moved | {(each.key, name) for each in due}
            state = replace(state, moving=state.moving | {name}, moved=moved)
            if module.kind == "farm":
                state = replace(state, drained=state.drained | {name})
                effects.append(Keep(state.drained))
            why = "; ".join(each.kind for each in due)
            effects.append(Say("HF7071", f"this node gives it away: {why}", name))
            effects.append(Move(name, "swap" if module.kind == "mirror" else "drain"))
        if not state.moving and all(module.gone for module in here.values()):
            ready = [each for each in due if each.answer and each.key not in state.answered]
            state = replace(state, answered=state.answered | {each.key for each in ready})
            effects += [Answer(each) for each in ready]
        return Decided(state, tuple(effects))

    def _return(self, now: float, here: Mapping[ModuleName, Here]) -> Decided:
        """What was left because of a notice is taken up again when none is near."""
        state, effects = self, list[Effect]()
        for name in sorted(self.drained):
            if name in here and state._may_order(now, name):
                state = replace(state, moving=state.moving | {name})
                effects.append(Move(name, "undrain"))
        return Decided(state, tuple(effects))

    def _may_order(self, now: float, module: ModuleName) -> bool:
        return module not in self.moving and now >= self.retry_at.get(module, now)

    def ended(self, now: float, order: Move, code: str, text: str) -> Decided:
        """What came of an order; an empty code: it is done."""
        name = order.module
        state = replace(self, moving=self.moving - {name})
        if not code:
            if order.action != "undrain":
                return Decided(state)
            state = replace(state, drained=state.drained - {name})
            return Decided(state, (Keep(state.drained),))
        state = replace(state, retry_at={**self.retry_at, name: now + RETRY_S})
        if order.action == "undrain":
            return Decided(state)
        of = frozenset((key, name) for key in self.notices)
        effects: list[Effect] = []
        state = replace(state, moved=state.moved - of)
        if order.action == "drain":
            state = replace(state, drained=state.drained - {name})
            effects.append(Keep(state.drained))
        if code != BUSY and not of <= state.stuck:
            state = replace(state, stuck=state.stuck | of)
            effects.append(Say("HF7072", f"it stays here for now ({code}): {text}", name))
        return Decided(state, tuple(effects))

    def not_answered(self, notice: Notice) -> Departure:
        """The place did not hear it: it is told again."""
        return replace(self, answered=self.answered - {notice.key})
