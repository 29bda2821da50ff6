"""One step under way: the farm as it becomes, and the effects so far."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from orchestrator.farm.state import MOVES, Farm
from orchestrator.model.effects import Answer, Effect, Tell
from orchestrator.model.names import Instant, NodeName, RequestId
from orchestrator.model.report import FarmRole


class Turn:
    """What the rules write on while one event is learned; lives for one step."""

    __slots__ = ("effects", "farm", "now")

    def __init__(self, farm: Farm, now: Instant) -> None:
        self.farm = farm
        self.now = now
        self.effects: list[Effect] = []

    def set(self, **changes: Any) -> None:
        """Change facts. The role changes through `become` only."""
        assert "role" not in changes
        self.farm = self.farm.changed(**changes)

    def become(self, role: FarmRole) -> None:
        """The one place where the role changes."""
        if role is self.farm.role:
            return
        assert role in MOVES[self.farm.role], f"{self.farm.role.value} never becomes {role.value}"
        self.farm = self.farm.changed(role=role)

    def peer(self, name: NodeName, **changes: Any) -> None:
        """Change what is known of one peer."""
        peers = {**self.farm.peers, name: replace(self.farm.peers[name], **changes)}
        self.farm = self.farm.changed(peers=MappingProxyType(peers))

    def do(self, *effects: Effect) -> None:
        """Order these, after what was ordered before."""
        self.effects.extend(effects)

    def tell(self, code: str, text: str) -> None:
        """One line for the event log."""
        self.effects.append(Tell(self.farm.module, code, text))

    def accept(self, request: RequestId, text: str = "") -> None:
        """Tell the operator that it is being done."""
        self.effects.append(Answer(request, "", text))

    def refuse(self, request: RequestId, code: str, text: str) -> None:
        """Tell the operator why it is not being done; nothing has changed."""
        self.effects.append(Answer(request, code, text))

    def is_due(self, at: Instant | None) -> bool:
        """That instant is there, and has come."""
        return at is not None and at <= self.now

    def later(self, delay_s: float) -> Instant:
        """The instant so many seconds from now."""
        return Instant(self.now + delay_s)
