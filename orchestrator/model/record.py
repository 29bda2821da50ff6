"""The record: who may write a mirror, kept in a register and changed by compare-and-swap only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from orchestrator.model.errors import CorruptState
from orchestrator.model.names import ClusterName, Epoch, ModuleName, NodeName, Nonce


@dataclass(frozen=True, slots=True)
class Reign:
    """One won or forced bid. Two histories are compared by reigns, by the nonce and never by the number."""

    epoch: Epoch
    nonce: Nonce

    def as_list(self) -> list[Any]:
        return [self.epoch, self.nonce]


@dataclass(frozen=True, slots=True)
class Record:
    """What the register holds for one mirror. `epoch` is the tag that a bid compares."""

    cluster: ClusterName
    module: ModuleName
    epoch: Epoch
    primary: NodeName
    in_sync: frozenset[NodeName]
    nodes: tuple[NodeName, ...]
    nonce: Nonce
    """The life of the primary's gate: only that life may open under this record."""
    revision: int = 0
    """The revision of the cluster's configuration under which the record was written."""
    forced: bool = False
    """True when an operator accepted data loss for this record."""
    reason: str = ""

    def __post_init__(self) -> None:
        assert self.epoch > 0
        assert self.primary in self.in_sync
        assert self.in_sync <= frozenset(self.nodes)

    @property
    def reign(self) -> Reign:
        return Reign(self.epoch, self.nonce)

    def following(self, **changes: Any) -> Record:
        """The record of the next epoch, with these fields changed."""
        return replace(self, epoch=Epoch(self.epoch + 1), **{"forced": False, **changes})

    def as_dict(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "module": self.module,
            "epoch": self.epoch,
            "primary": self.primary,
            "in_sync": sorted(self.in_sync),
            "nodes": list(self.nodes),
            "nonce": self.nonce,
            "revision": self.revision,
            "forced": self.forced,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Read a record that came from a file or the wire; CorruptState when it is not one."""
        try:
            record = cls(
                cluster=ClusterName(_text(data["cluster"])),
                module=ModuleName(_text(data["module"])),
                epoch=Epoch(_whole(data["epoch"])),
                primary=NodeName(_text(data["primary"])),
                in_sync=frozenset(NodeName(_text(name)) for name in data["in_sync"]),
                nodes=tuple(NodeName(_text(name)) for name in data["nodes"]),
                nonce=Nonce(_text(data["nonce"])),
                revision=_whole(data.get("revision", 0)),
                forced=bool(data.get("forced", False)),
                reason=_text(data.get("reason", "")),
            )
        except (KeyError, TypeError, ValueError, AssertionError) as fault:
            raise CorruptState(what="a record", why=f"{type(fault).__name__}: {fault}") from fault
        return record


class Outcome(Enum):
    """What is known of a bid: a verdict that can be 'not yet' is never a bool."""

    WON = "won"
    LOST = "lost"
    UNKNOWN = "unknown"


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 512:  # longest legitimate text is a reason
        raise ValueError(f"not a short text: {value!r:.80}")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"not a whole number: {value!r:.80}")
    return value
