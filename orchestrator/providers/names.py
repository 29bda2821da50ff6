"""`dns`: a name that leads to whichever node serves, in a zone of a cloud; clients follow by its TTL."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from orchestrator.model.names import NodeName
from orchestrator.providers.faults import ForeignOwner, PlaceWrong, ProviderFault
from orchestrator.providers.modes import Mode, sight
from orchestrator.providers.mover import Leave, Place, Vip
from orchestrator.providers.provider import Finding, Sight

TTL_S: Final = 10
"""Resolvers ask six times a minute; a client waits for so long beside the take-over itself."""
TTL_MAX_S: Final = 86400
Ground = TypeVar("Ground")


@dataclass(frozen=True, slots=True)
class Record:
    """A plain record of addresses, as the zone has it."""

    ttl: int
    values: tuple[str, ...]
    """In the zone's own order and form: what is to go must be named exactly."""


class ByName(Mode[Ground]):
    """A compare-and-swap where the zone has one: the change names the record that was seen, whole."""

    name = "dns"
    local = False
    settings = ("zone", "record")

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._seen: dict[str, Record | None] = {}
        """By address of hafarm.yaml, as looked at last: a claim looks directly before it moves."""

    @property
    @abstractmethod
    def _place(self) -> Place: ...

    @abstractmethod
    def _read(self, vip: Vip) -> Record | None:
        """The record now; None: there is none. PlaceWrong where it is no plain one."""

    @abstractmethod
    def _swap(self, vip: Vip, before: Record | None, after: Record) -> None:
        """One request; ProviderUnreachable where the zone has something else than `before` by now."""

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """One request for each: zones have no wider one that is not all of the zone."""
        return {vip.address: self._look_at(vip) for vip in vips}

    def _look_at(self, vip: Vip) -> Sight | Exception:
        try:
            record = self._read(vip)
        except ProviderFault as fault:
            return fault
        self._seen[vip.address] = record
        values = frozenset(record.values if record is not None else ())
        nodes: dict[str, NodeName | None] = {value: self._node_of(vip, value) for value in values}
        ttl = f" (TTL {record.ttl} s)" if record is not None else ""
        return sight({f"{record_of(vip)}{ttl}": values}, nodes, self._place.me)

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        before = self._seen.get(vip.address)
        strangers = [one for one in (before.values if before else ()) if self._node_of(vip, one) is None]
        if strangers:
            # Another look came between the claim's own and this, and saw what the claim did not.
            raise ForeignOwner(record_of(vip), f"it leads to {', '.join(strangers)}")
        self._swap(vip, before, Record(ttl_of(vip), (value_of(vip, self._place, self._place.me),)))
        return {}

    def check(self, vip: Vip) -> None:
        """Each node has an address of its own to be led to, and the record is a plain one."""
        for each in vip.settings.get("values", ()):
            _check_value(vip, each)
        values = {node: value_of(vip, self._place, node) for node in vip.nodes}
        if len(set(values.values())) < len(values):
            raise PlaceWrong(vip.address, "two nodes have one value", "correct the setting values")
        ttl_of(vip)
        self._read(vip)

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        """A TTL that is not the file's: the next move sets it, and clients of this one go by the old one."""
        record = self._read(vip)
        if record is None or record.ttl == ttl_of(vip):
            return []
        problem = f"its TTL is {record.ttl} s, and {ttl_of(vip)} s in hafarm.yaml"
        return [Finding(record_of(vip), problem, "set it in the zone: the move itself comes too late for it")]

    def label(self, vip: Vip) -> str:
        return f"clients follow within {ttl_of(vip)} s, the record's TTL, where their resolvers keep to it"

    def _node_of(self, vip: Vip, value: str) -> NodeName | None:
        for node in self._place.addresses:
            if _same(value, value_of(vip, self._place, node, strict=False)):
                return node
        return None


def record_of(vip: Vip) -> str:
    """The record's name, without the dot that may stand at its end."""
    return vip.setting("record").rstrip(".").lower()


def kind_of(vip: Vip) -> str:
    """The record's type, by the family of the address that hafarm.yaml names it by."""
    return "AAAA" if ":" in vip.address else "A"


def ttl_of(vip: Vip) -> int:
    """In seconds; PlaceWrong where it is none."""
    text = vip.setting("ttl") or str(TTL_S)
    if not text.isdecimal() or not 1 <= int(text) <= TTL_MAX_S:
        raise PlaceWrong(vip.address, f"ttl {text} is no number of seconds", f"1 to {TTL_MAX_S}")
    return int(text)


def value_of(vip: Vip, place: Place, node: NodeName, strict: bool = True) -> str:
    """What the record says when this node serves: `values: [NODE=ADDRESS]`, else its first own address."""
    for each in vip.settings.get("values", ()):
        name, _, value = each.partition("=")
        if name == node:
            return value
    family = 6 if kind_of(vip) == "AAAA" else 4
    own = [text for text in place.addresses.get(node, ()) if ip_address(text).version == family]
    if not own and strict:
        problem = f"{node} has no address for a record of type {kind_of(vip)}"
        raise PlaceWrong(vip.address, problem, "say `values: [NODE=ADDRESS, ...]`")
    return own[0] if own else ""


def _check_value(vip: Vip, text: str) -> None:
    """Of the setting values: NODE=ADDRESS, of the record's family."""
    name, _, value = text.partition("=")
    try:
        fits = ip_address(value).version == (6 if kind_of(vip) == "AAAA" else 4)
    except ValueError:
        fits = False
    if name not in vip.nodes or not fits:
        problem = f"{text} is no NODE=ADDRESS for a record of type {kind_of(vip)}"
        raise PlaceWrong(vip.address, problem, f"name nodes of the module: {', '.join(vip.nodes)}")


def _same(one: str, other: str) -> bool:
    """A zone may write an IPv6 address otherwise than hafarm.yaml does."""
    try:
        return ip_address(one) == ip_address(other)
    except ValueError:
        return one == other


def in_zone(record: str, zone: str) -> bool:
    """Whether a name is in a zone, by their names."""
    zone = zone.rstrip(".").lower()
    return record == zone or record.endswith(f".{zone}")


def plain(record: Mapping[str, Any], odd: Sequence[str], name: str) -> None:
    """PlaceWrong where a record has any of these: it is chosen by more than its name."""
    found = [key for key in odd if record.get(key)]
    if found:
        text = f"is no plain record: it has {', '.join(found)}"
        raise PlaceWrong(name, text, "make it a plain one, or name another")
