"""What a primary says of slow copies, for the nodes that see nothing of it: believed while it is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orchestrator.agent.lines import Refused
from orchestrator.agent.strangers import LOOK_S

HEARD_S: Final = 3 * LOOK_S
"""It is said at each look, and one may be lost or late."""
NODES_MAX: Final = 64
Facts = Mapping[str, float]
"""`took_s` and `usual_s` of one node's copy."""


class Slowness:
    """Of one module, by node."""

    def __init__(self) -> None:
        self._facts: Mapping[str, Facts] = {}
        self._until = 0.0

    def hear(self, told: Any, now: float) -> None:
        """Raises Refused when it is nothing that a primary says."""
        if not isinstance(told, dict) or len(told) > NODES_MAX:
            raise Refused("HF1223", "slow is no list of nodes")
        self._facts = {str(node): _facts(facts) for node, facts in told.items()}
        self._until = now + HEARD_S

    def of(self, node: str, now: float) -> Facts | None:
        """None: it is not slow, or nobody says so any more."""
        return self._facts.get(node) if now < self._until else None


def said(slow: Mapping[str, Mapping[str, Any]]) -> dict[str, Facts]:
    """What a primary tells the others of what it sees."""
    return {node: {key: float(facts[key]) for key in ("took_s", "usual_s")} for node, facts in slow.items()}


def _facts(told: Any) -> Facts:
    try:
        facts = {key: float(told[key]) for key in ("took_s", "usual_s")}
    except (KeyError, TypeError, ValueError) as fault:
        raise Refused("HF1223", f"no facts of a slow copy: {told!r:.80}") from fault
    if not all(0 <= value < 1e6 for value in facts.values()):
        raise Refused("HF1223", f"no times: {told!r:.80}")
    return facts
