"""A cloud with several ways of moving an address: which is taken, and looking, changing, looking again."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from orchestrator.model.names import NodeName
from orchestrator.providers.faults import ForeignOwner, PlaceWrong, ProviderFault, ProviderUnreachable
from orchestrator.providers.mover import Choice, Leave, Moved, Place, Vip
from orchestrator.providers.provider import Finding, Owner, Sight
from orchestrator.providers.sending import under

LOOK_AGAIN_S: Final = 0.1
LOOK_AGAIN_MAX_S: Final = 1.0
"""Clouds show a change within some hundred milliseconds, now and then within seconds."""
SETTLE_S: Final = 3.0
"""So long this machine may take to be told what the cloud says already; then the cloud is believed."""
Ground = TypeVar("Ground")
"""What a cloud's modes know of where the nodes are."""


class Mode(ABC, Generic[Ground]):
    """Looks at several addresses together, and moves one."""

    name: ClassVar[str]
    local: ClassVar[bool] = True
    """The address is put on an interface."""
    by_probe: ClassVar[bool] = False
    """Nothing is changed when it moves: a load balancer asks who serves."""
    settings: ClassVar[tuple[str, ...]] = ()
    """What it needs to be told."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    @abstractmethod
    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """Who has each; in one request where the cloud has one."""

    @abstractmethod
    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        """Ask for whatever leads it here; parts that were refused, each with its fault."""

    def whole(self, vip: Vip, leave: Leave) -> bool:
        """Of what is here: whether a claim has nothing left to do."""
        return True

    def release(self, vip: Vip) -> None:
        """Let go of what is still here; by default nothing: a successor takes it from where it is."""
        return

    def check(self, vip: Vip) -> None:
        """PlaceWrong where the configuration does not fit what is there."""
        return

    def label(self, vip: Vip) -> str:
        """What people have to know of it beside who moves it; nothing by default."""
        return ""

    def settled(self, vip: Vip) -> bool:
        """Whether this machine sees it too, where it can."""
        return True

    def lacking(self, vip: Vip) -> Iterable[tuple[str, str]]:
        """Requests of a claim that would be refused, each with the reason; nothing is changed to learn it."""
        return ()

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        """What would disturb a claim, beside what `check` and `lacking` find."""
        return []


class ByMode(ABC, Generic[Ground]):
    """Keeps `providers.mover.Mover`, with a Mode for each address."""

    name: ClassVar[str]
    """As hafarm.yaml names it."""
    cloud: ClassVar[str]
    """For people."""
    modes: ClassVar[Mapping[str, type[Mode[Any]]]]

    def __init__(self, place: Place) -> None:
        self._place = place
        self._vips = {vip.address: vip for vip in place.vips}
        self._preparing = threading.Lock()
        self._ground: Ground | None = None
        self._made: dict[str, Mode[Ground]] = {}
        self._checked: set[str] = set()
        try:
            self._prepared()
        except ProviderFault:
            pass  # told to whoever asks for something

    @abstractmethod
    def _learn(self) -> Ground:
        """Where the nodes are; made once, and again after a fault."""

    @abstractmethod
    def _by_place(self, vip: Vip, ground: Ground) -> tuple[str, str]:
        """The mode that is sound where the nodes are, and why; PlaceWrong where none is."""

    def _prepared(self) -> Ground:
        with self._preparing:
            if self._ground is None:
                self._ground = self._learn()
                self._made = {name: mode(self._ground) for name, mode in self.modes.items()}
            return self._ground

    # --- how --------------------------------------------------------------------------------------------

    def choices(self) -> Mapping[str, Choice | Exception]:
        found: dict[str, Choice | Exception] = {}
        for address, vip in self._vips.items():
            try:
                found[address] = self._choice(vip)
            except ProviderFault as fault:
                found[address] = fault
        return found

    def _choice(self, vip: Vip) -> Choice:
        ground = self._prepared()
        name, why = (vip.mode, "hafarm.yaml names it") if vip.mode else self._by_place(vip, ground)
        if name not in self.modes:
            raise PlaceWrong(
                vip.address, f"{self.cloud} has no mode {name}", f"known: {', '.join(self.modes)}"
            )
        mode = self._made[name]
        for setting in mode.settings:
            if not vip.settings.get(setting):
                raise PlaceWrong(vip.address, f"{name} needs the setting {setting}", "add it in hafarm.yaml")
        if mode.by_probe and not self._place.health_port:
            raise PlaceWrong(vip.address, f"{name} needs a health port", "set `ports: {health: PORT}`")
        if vip.address not in self._checked:
            mode.check(vip)
            self._checked.add(vip.address)
        label = mode.label(vip)
        return Choice(name, mode.local, f"{why}; {label}" if label else why)

    def _mode(self, vip: Vip) -> Mode[Ground]:
        name = self._choice(vip).mode  # which makes the modes anew after a fault
        return self._made[name]

    # --- looking ----------------------------------------------------------------------------------------

    def observe(self) -> Mapping[str, Sight | Exception]:
        seen: dict[str, Sight | Exception] = {}
        together: dict[Mode[Ground], list[Vip]] = defaultdict(list)
        for vip in self._vips.values():
            try:
                together[self._mode(vip)].append(vip)
            except ProviderFault as fault:
                seen[vip.address] = fault
        for mode, vips in together.items():
            seen |= mode.look(vips)
        return seen

    # --- moving -----------------------------------------------------------------------------------------

    def claim(self, address: str, expected: frozenset[NodeName], leave: Leave) -> Moved:
        vip = self._vips[address]
        mode = self._mode(vip)
        if mode.by_probe:
            return Moved()
        seen = _looked(mode, vip)
        if seen.owner is Owner.MINE and mode.whole(vip, leave):
            return Moved()
        others = seen.nodes - {self._place.me}
        if seen.owner is Owner.FOREIGN or others - expected:
            raise ForeignOwner(address, seen.detail)
        with under(leave) as sent:
            failed = mode.move(vip, leave)
        whole = self._await(mode, vip, leave, failed)
        if not whole and not failed:
            raise ProviderUnreachable(self.cloud, f"the move of {address}", "it does not show yet")
        if failed and seen.owner is not Owner.MINE and not sent_well(sent, failed):
            raise next(iter(failed.values()))
        missing = {part: str(fault) for part, fault in failed.items()}
        return Moved(missing, len(sent), any(fault.again for fault in failed.values()))

    def _await(self, mode: Mode[Ground], vip: Vip, leave: Leave, failed: Mapping[str, ProviderFault]) -> bool:
        """Look until it is here, or the order's time is over; what failed is not waited for."""
        pause_s, shown_at = LOOK_AGAIN_S, None
        while not failed:
            try:
                if _looked(mode, vip).owner is Owner.MINE:
                    shown_at = shown_at or time.monotonic()
                    if mode.settled(vip) or time.monotonic() - shown_at > SETTLE_S:
                        return True
            except ProviderUnreachable:
                pass  # it is looked again
            if leave.left_s() < pause_s:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_AGAIN_MAX_S)
        return False

    def release(self, address: str, leave: Leave) -> None:
        vip = self._vips[address]
        mode = self._mode(vip)
        with under(leave):
            mode.release(vip)

    # --- beforehand -------------------------------------------------------------------------------------

    def preflight(self, repair: bool, leave: Leave) -> list[Finding]:
        hint = policy_hint(self.name)
        found: list[Finding] = []
        for vip in self._vips.values():
            self._checked.discard(vip.address)
            try:
                mode = self._mode(vip)
                seen = _looked(mode, vip)
                with under(leave):
                    found += mode.preflight(vip, repair, leave)
                if seen.owner is Owner.FOREIGN:
                    found.append(Finding(vip.address, seen.detail, "take it away there: it is not taken"))
                found += [Finding(vip.address, f"{action}: {why}", hint) for action, why in mode.lacking(vip)]
            except ProviderFault as fault:
                found.append(Finding(vip.address, str(fault), hint))
        return found


def policy_hint(name: str) -> str:
    """What to do about a right that is lacking."""
    return f"`hafarm provider policy {name}` prints the rights that are needed"


def sent_well(sent: Sequence[str], failed: Mapping[str, ProviderFault]) -> bool:
    """Whether any part was moved: then the service begins, and the rest is tried again."""
    return len(sent) > len(failed)


def _looked(mode: Mode[Any], vip: Vip) -> Sight:
    seen = mode.look([vip])[vip.address]
    if isinstance(seen, Exception):
        raise seen
    return seen


# --- for the modes --------------------------------------------------------------------------------------


def sight(parts: Mapping[str, frozenset[str]], nodes: Mapping[str, NodeName | None], me: NodeName) -> Sight:
    """The verdict over all parts of an address, each with who has it; `nodes`: whose each owner is."""
    names = {one: node or f"{one}, no node of this cluster" for one, node in nodes.items()}
    text = "; ".join(
        f"{part} leads to {', '.join(names[one] for one in sorted(owners))}"
        for part, owners in sorted(parts.items())
        if owners
    )
    found = {nodes[one] for owners in parts.values() for one in owners}
    ours = frozenset(node for node in found if node is not None)
    if None in found:
        return Sight(Owner.FOREIGN, ours, text)
    if not found:
        return Sight(Owner.NOBODY)
    if len(found) == 1 and all(len(owners) == 1 for owners in parts.values()):
        return Sight(Owner.MINE if ours == {me} else Owner.NODE, ours, text)
    lacking = [part for part, owners in sorted(parts.items()) if not owners]
    nowhere = f"; {', '.join(lacking)} leads nowhere" if lacking else ""
    return Sight(Owner.AMBIGUOUS, ours, text + nowhere)


class Told(Protocol):
    """What has settings."""

    def setting(self, name: str) -> str: ...


def the_one(told: Iterable[Told], name: str) -> str:
    """A setting that all of them share; PlaceWrong where they name several."""
    values = {one.setting(name) for one in told if one.setting(name)}
    if len(values) > 1:
        raise PlaceWrong(
            f"setting {name}", f"hafarm.yaml names several: {', '.join(sorted(values))}", "name one"
        )
    return values.pop() if values else ""


def lies_in(address: str, network: str) -> bool:
    """Whether an address is in a network, of the same family."""
    parsed, inside = ip_address(address), ip_network(network, strict=False)
    return parsed.version == inside.version and parsed in inside
