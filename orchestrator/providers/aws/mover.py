"""AWS: which way each address is moved here, and the order of looking, changing and looking again."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from orchestrator.model.names import NodeName
from orchestrator.providers.aws.account import NAME, under
from orchestrator.providers.aws.balancer import Probe, Register
from orchestrator.providers.aws.elastic import Elastic
from orchestrator.providers.aws.ground import Ground, lies_in
from orchestrator.providers.aws.mode import POLICY_HINT, Mode, permitted, statement
from orchestrator.providers.aws.routes import Routes
from orchestrator.providers.aws.secondary import Secondary
from orchestrator.providers.faults import (
    ForeignOwner,
    PlaceWrong,
    ProviderFault,
    ProviderUnreachable,
)
from orchestrator.providers.mover import Choice, Leave, Moved, Place, Vip
from orchestrator.providers.provider import Finding, Owner, Sight

MODES: Final[Mapping[str, type[Mode]]] = {
    mode.name: mode for mode in (Secondary, Routes, Elastic, Probe, Register)
}
LOOK_AGAIN_S: Final = 0.1
LOOK_AGAIN_MAX_S: Final = 1.0
"""AWS shows a change within some hundred milliseconds, now and then within seconds."""
SETTLE_S: Final = 3.0
"""So long this machine may take to be told what AWS says already; then AWS is believed."""


class Aws:
    """Keeps `providers.mover.Mover`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._vips = {vip.address: vip for vip in place.vips}
        self._preparing = threading.Lock()
        self._ground: Ground | None = None
        self._modes: dict[str, Mode] = {}
        self._checked: set[str] = set()
        try:
            self._prepared()
        except ProviderFault:
            pass  # told to whoever asks for something

    def _prepared(self) -> Ground:
        with self._preparing:
            if self._ground is None:
                self._ground = Ground(self._place)
                self._modes = {name: mode(self._ground) for name, mode in MODES.items()}
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
        self._prepared()
        name, why = (vip.mode, "hafarm.yaml names it") if vip.mode else self._by_place(vip)
        if name not in MODES:
            raise PlaceWrong(vip.address, f"AWS has no mode {name}", f"known: {', '.join(MODES)}")
        mode = self._modes[name]
        for setting in mode.settings:
            if not vip.settings.get(setting):
                raise PlaceWrong(vip.address, f"{name} needs the setting {setting}", "add it in hafarm.yaml")
        if mode.by_probe and not self._place.health_port:
            raise PlaceWrong(vip.address, f"{name} needs a health port", "set `ports: {health: PORT}`")
        if vip.address not in self._checked:
            mode.check(vip)
            self._checked.add(vip.address)
        return Choice(name, mode.local, why)

    def _by_place(self, vip: Vip) -> tuple[str, str]:
        """The way that is sound where the nodes are; subnets are compared by what they are called in AWS."""
        ground = self._prepared()
        me = ground.me
        nics = {node: nic for node in vip.nodes if (nic := ground.nic(node)) is not None}
        told = ", ".join(f"{node} in {nic.subnet}" for node, nic in sorted(nics.items()))
        if vip.setting("allocation"):
            return Elastic.name, "the settings name an Elastic IP"
        inside = not ground.subnet_range or ":" in vip.address or lies_in(vip.address, ground.subnet_range)
        if {nic.subnet for nic in nics.values()} == {me.subnet} and inside:
            return Secondary.name, f"all nodes are in one subnet ({told})"
        many = {nic.subnet for nic in nics.values()} != {me.subnet}
        which = (
            f"the nodes are in several subnets ({told})"
            if many
            else f"it is no address of {me.subnet} ({told})"
        )
        if vip.settings.get("target_groups"):
            return Probe.name, f"{which}, and the settings name target groups"
        if vip.settings.get("route_tables"):
            return Routes.name, f"{which}, and the settings name route tables"
        raise PlaceWrong(
            vip.address,
            f"no way leads it from node to node: {which}",
            "name `target_groups` of a load balancer, or `route_tables` for an address outside of the VPC",
        )

    def _mode(self, vip: Vip) -> Mode:
        return self._modes[self._choice(vip).mode]

    # --- looking ----------------------------------------------------------------------------------------

    def observe(self) -> Mapping[str, Sight | Exception]:
        seen: dict[str, Sight | Exception] = {}
        together: dict[Mode, list[Vip]] = defaultdict(list)
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
        if seen.owner is Owner.MINE:
            return Moved()
        others = seen.nodes - {self._place.me}
        if seen.owner is Owner.FOREIGN or others - expected:
            raise ForeignOwner(address, seen.detail)
        with under(leave) as sent:
            failed = mode.move(vip, leave)
        whole = self._await(mode, vip, leave, failed)
        if not whole and not failed:
            raise ProviderUnreachable(NAME, f"the move of {address}", "it does not show yet")
        if failed and not sent_well(sent, failed):
            raise next(iter(failed.values()))
        missing = {part: str(fault) for part, fault in failed.items()}
        return Moved(missing, len(sent), any(fault.again for fault in failed.values()))

    def _await(self, mode: Mode, vip: Vip, leave: Leave, failed: Mapping[str, ProviderFault]) -> bool:
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
                for action, request in mode.trials(vip):
                    if lacking := permitted(request):
                        found.append(Finding(vip.address, f"{action}: {lacking}", POLICY_HINT))
            except ProviderFault as fault:
                found.append(Finding(vip.address, str(fault), POLICY_HINT))
        return found

    @staticmethod
    def policy(place: Place) -> Mapping[str, Any]:
        return policy(place)


def sent_well(sent: Sequence[str], failed: Mapping[str, ProviderFault]) -> bool:
    """Whether any part was moved: then the service begins, and the rest is tried again."""
    return len(sent) > len(failed)


def _looked(mode: Mode, vip: Vip) -> Sight:
    seen = mode.look([vip])[vip.address]
    if isinstance(seen, Exception):
        raise seen
    return seen


# --- rights ---------------------------------------------------------------------------------------------


def policy(place: Place) -> Mapping[str, Any]:
    """Documents by the role that needs them; needs nothing but the configuration."""
    region = next((vip.setting("region") for vip in place.vips if vip.setting("region")), "")
    own = [statement("LookAtNodes", ["ec2:DescribeNetworkInterfaces"])]
    roles: dict[str, list[dict[str, Any]]] = {}
    by_mode: dict[tuple[str, str], list[Vip]] = defaultdict(list)
    for vip in place.vips:
        for name in _possible(vip):
            by_mode[name, vip.setting("role") if name == Routes.name else ""].append(vip)
    for (name, role), vips in by_mode.items():
        rights = MODES[name].rights(vips, region)
        if role:
            roles.setdefault(role, []).extend(rights)
        else:
            own += rights
    if any(name == Routes.name for name, _ in by_mode):
        own += Routes.own_rights(region)
    if roles:
        own.append(statement("TakeOnRoles", ["sts:AssumeRole"], sorted(roles)))
    documents = {"this node's role": own, **roles}
    return {
        whose: {"Version": "2012-10-17", "Statement": _once(rights)} for whose, rights in documents.items()
    }


def _possible(vip: Vip) -> Iterable[str]:
    """The modes that an address may be moved by, as far as the configuration tells."""
    if vip.mode:
        return [vip.mode] if vip.mode in MODES else []
    told = [
        name
        for name, mode in MODES.items()
        if mode.settings and all(vip.settings.get(s) for s in mode.settings)
    ]
    return [name for name in told if name != Register.name] or [Secondary.name]


def _once(rights: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same statement once."""
    found: list[dict[str, Any]] = []
    for each in rights:
        if each not in found:
            found.append(each)
    return found
