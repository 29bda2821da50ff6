"""One step under way: the mirror as it becomes, and the effects so far."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from orchestrator.mirror.state import MOVES, Mirror, Peer
from orchestrator.model.effects import Answer, Effect, Tell
from orchestrator.model.names import Instant, NodeName, RequestId
from orchestrator.model.report import Role


class Turn:
    """What the rules write on while one event is learned; lives for one step."""

    __slots__ = ("effects", "mirror", "now")

    def __init__(self, mirror: Mirror, now: Instant) -> None:
        self.mirror = mirror
        self.now = now
        self.effects: list[Effect] = []

    def set(self, **changes: Any) -> None:
        """Change facts. The role changes through `become` only."""
        assert "role" not in changes
        self.mirror = self.mirror.changed(**changes)

    def become(self, role: Role) -> None:
        """The one place where the role changes."""
        if role is self.mirror.role:
            return
        assert role in MOVES[self.mirror.role], f"{self.mirror.role.value} never becomes {role.value}"
        self.mirror = self.mirror.changed(role=role)

    def peer(self, name: NodeName, **changes: Any) -> None:
        """Change what is known of one peer."""
        peers = dict(self.mirror.peers)
        peers[name] = replace(peers.get(name, Peer()), **changes)
        self.mirror = self.mirror.changed(peers=MappingProxyType(peers))

    def forget_streams(self) -> None:
        """The role changed sides: no stream of before means anything."""
        for name in self.mirror.peers:
            self.peer(name, stream=False, ready=None, broken=False)

    def do(self, *effects: Effect) -> None:
        """Order these, after what was ordered before."""
        self.effects.extend(effects)

    def tell(self, code: str, text: str) -> None:
        """One line for the event log."""
        self.effects.append(Tell(self.mirror.module, code, text))

    def accept(self, request: RequestId, text: str = "") -> None:
        """Tell the operator that it is being done."""
        self.effects.append(Answer(request, "", text))

    def refuse(self, request: RequestId, code: str, text: str) -> None:
        """Tell the operator why it is not being done; nothing has changed."""
        self.effects.append(Answer(request, code, text))

    def at_the_latest(self, delay_s: float) -> Instant:
        """The instant so many seconds from now."""
        return Instant(self.now + delay_s)
