"""One farm in this kernel: its addresses, its rules and who answers, applied, kept, counted, taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface
from typing import Final

from orchestrator.farm.plane import Mode, Plane, Traffic, device_of
from orchestrator.farm.rates import Sample
from orchestrator.farm.rules import rules, table_of
from orchestrator.farm.ruleset import NOTHING, Ruleset, change, replacement
from orchestrator.host.announce import BURST_S, Address, Wire, frames, say_again, who_has
from orchestrator.host.farm_remains import remove_farm
from orchestrator.host.farm_traffic import count_connections, read_counters
from orchestrator.host.netlink import Changes, Link, Netlink, Placed
from orchestrator.host.nfnetlink import Nfnetlink, RulesRefused
from orchestrator.host.nft import Nft, is_silenced, open_nft
from orchestrator.host.nft_changes import RuleChanges
from orchestrator.host.nftables_seen import digest, tables
from orchestrator.host.plane_words import (
    AddressTaken,
    FarmAddressConflict,
    FarmAddressPutBack,
    InterfaceUnfit,
    NoSuchSubnet,
    PlaneEvent,
    RulesImpossible,
    RulesPutBack,
)
from orchestrator.model.errors import AddressRefused, HafarmError, ProcessUnreachable
from orchestrator.model.events import LinkLost, LinkRestored
from orchestrator.model.names import ModuleName

SETTLE_S: Final = 0.05
"""From a change to our look at the kernel: changes come in bursts, and somebody who keeps taking our rules
away cannot make us spin."""
CONFLICT_PACE_S: Final = 1.0
"""Between two answers to one conflict, so that two holders do not shout as fast as they can."""


class FarmPlane:
    """One farm's plane on this node."""

    def __init__(self, farm: ModuleName, on_event: Callable[[PlaneEvent], None]) -> None:
        self._farm = farm
        self._on_event = on_event
        self._plane: Plane | None = None
        self._loaded: Ruleset = NOTHING
        self._seen: str | None = None
        """What the rules are in the kernel; None: not read since they were loaded."""
        self._counted_since = 0.0
        """When all counters were zero."""
        self._changed = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wire: Wire | None = None
        self._carrier: bool | None = None
        self._conflict_at: dict[Address, float] = {}
        self._hands: _Hands | None = None

    async def start(self) -> None:
        """Watch; what an earlier life left stays as it is until the first `apply` or `clean`."""
        assert self._hands is None, "started once"
        self._hands = await _Hands.open(table_of(self._farm), self._changed.set)
        self._tasks["watch"] = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Watch no more. Everything stays: the next life takes it back with `start` and `apply`."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        self._hang_up()
        if self._hands is not None:
            self._hands.close()
            self._hands = None

    # --- what an operator is told beforehand ------------------------------------------------------------

    async def preflight(self, plane: Plane) -> list[HafarmError]:
        """What would refuse or disturb this plane. Nothing was changed when it returns."""
        links = await self._have.net.links()
        try:
            link = _require(plane, links)
        except InterfaceUnfit as fault:
            return [fault]
        found: list[HafarmError] = []
        subnets = [
            placed.address.network
            for placed in await self._have.net.addresses()
            if placed.index == link.index and placed.address.ip not in _ips(plane)
        ]
        for ip in _ips(plane):
            if not any(ip in subnet for subnet in subnets):
                found.append(NoSuchSubnet(str(ip), plane.interface))
        others = await who_has(link.name, link.index, link.mac, _ips(plane))
        known = _macs(plane)
        if not known >= set(others.values()):
            # A peer whose hardware address was not learned, or is another one now, is no stranger.
            own = [ip_address(each) for peer in plane.peers for each in (peer.v4, peer.v6) if each]
            known |= set((await who_has(link.name, link.index, link.mac, own)).values())
        found += [AddressTaken(str(ip), mac.hex(":")) for ip, mac in others.items() if mac not in known]
        try:
            open_nft(dry=True).run(replacement(rules(plane)))
        except RulesRefused as fault:
            found.append(RulesImpossible(fault.why))
        return found

    # --- applying ---------------------------------------------------------------------------------------

    async def apply(self, plane: Plane) -> None:
        """The kernel does what the plane says when it returns; only the difference to the last is written.

        Raises InterfaceUnfit, RulesRefused, AddressRefused or LinkRefused; asking again is safe.
        """
        assert plane.farm == self._farm
        async with self._one_at_a_time:
            before = self._plane
            links = await self._have.net.links()
            link = _require(plane, links)
            # No question for an address comes before the rules say who answers. And without them no frame
            # leaves with the virtual hardware address as its source: a switch would learn where that is.
            if plane.mode is not Mode.INVISIBLE:
                await self._remove_device()
            self._load(rules(plane))
            self._plane = plane
            if plane.mode is Mode.INVISIBLE:
                links = await self._make_device(plane, links)
            await self._place(plane, links)
            self._listen(plane, link)
            old = (
                before.answers if before is not None and before.interface == plane.interface else frozenset()
            )
            if plane.answers - old:
                self.announce()
            elif not plane.answers:
                self._say_no_more()

    def announce(self) -> None:
        """Tell all neighbours who answers for the addresses that this node is the director of.

        By itself when it becomes that; ordered in the mode `spread` when a node was lost, whose clients know
        its hardware address alone.
        """
        self._say_no_more()
        self._say()
        self._tasks["announce"] = asyncio.create_task(say_again(self._say, BURST_S))

    async def counters(self) -> dict[str, Traffic]:
        """By service; counted since its rules were first loaded in this life, or put back."""
        plane = self._plane
        if plane is None:
            return {}
        known = await count_connections(plane.services)
        counts = read_counters(self._loaded, plane.services)
        return {name: replace(counts[name], connections=number) for name, number in known.items()}

    def sample(self) -> Sample | None:
        """The counters alone, which costs a millisecond; None where no traffic is let in."""
        if self._plane is None:
            return None
        counts = read_counters(self._loaded, self._plane.services)
        return Sample(asyncio.get_running_loop().time(), self._counted_since, counts)

    async def found(self) -> bool:
        """Whether an earlier life's plane is in the kernel, whole or in part."""
        return any(name == table_of(self._farm) for _, name in tables())

    # --- taking away ------------------------------------------------------------------------------------

    async def clean(self) -> None:
        """Nothing of this farm is in the kernel when it returns, whichever life put it there."""
        async with self._one_at_a_time:
            self._hang_up()
            self._plane, self._loaded, self._seen = None, NOTHING, None
            await remove_farm(self._have.net, self._have.nft, self._farm)
            self._have.rule_changes.forget()

    # --- rules ------------------------------------------------------------------------------------------

    def _load(self, after: Ruleset) -> None:
        if self._loaded and not (difference := change(self._loaded, after)):
            return
        try:
            if not self._loaded:
                raise RulesRefused("an earlier life's rules are not known")
            self._have.nft.run(difference)
        except RulesRefused:
            # Or somebody took ours away, and the difference does not fit: everything, in one transaction too.
            self._replace(after)
        self._loaded, self._seen = after, None
        self._have.rule_changes.forget()
        self._changed.set()

    def _replace(self, after: Ruleset) -> None:
        self._have.nft.run(replacement(after))
        self._counted_since = asyncio.get_running_loop().time()

    def _keep_rules(self) -> bool:
        """Put back what somebody took away; whether they had."""
        seen = digest(self._loaded)
        if seen is not None and self._seen in (None, seen):
            self._seen = seen
            return False
        self._replace(self._loaded)
        self._have.rule_changes.forget()
        self._seen = digest(self._loaded)
        self._on_event(RulesPutBack(self._farm))
        return True

    # --- addresses --------------------------------------------------------------------------------------

    async def _place(self, plane: Plane, links: dict[str, Link]) -> list[Placed]:
        """Put addresses where they belong, and take them from where they do not; those that were put."""
        wanted = _wanted(plane, links)
        there = await self._have.net.addresses()
        for placed in there:
            if _is_ours(placed, plane) and placed not in wanted:
                self._have.net.remove(placed)
        missing = [placed for placed in wanted if placed not in there]
        for placed in missing:
            # Never a source of connections that begin here: those would come back to somebody else.
            self._have.net.add(placed, preferred=False)
        return missing

    async def _make_device(self, plane: Plane, links: dict[str, Link]) -> dict[str, Link]:
        """The links as they are afterwards."""
        net = self._have.net
        device = links.get(plane.device)
        if device is not None and device.mac.hex(":") != plane.virtual_mac:
            await net.remove_link(device)
            device = None
        if device is None:
            await net.add_macvlan(plane.device, links[plane.interface], plane.virtual_mac)
            links = await net.links()
            device = links[plane.device]
        if not device.up:
            _quieten(plane.device)
            await net.set_up(device)
        return links

    async def _remove_device(self) -> None:
        device = (await self._have.net.links()).get(device_of(self._farm))
        if device is not None:
            await self._have.net.remove_link(device)

    # --- watching ---------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(SETTLE_S)
            self._changed.clear()
            async with self._one_at_a_time:
                if self._plane is not None:
                    try:
                        await self._look(self._plane)
                    except (ProcessUnreachable, RulesRefused, AddressRefused):
                        self._changed.set()  # The kernel is just being changed by somebody: look again.

    async def _look(self, plane: Plane) -> None:
        links = await self._have.net.links()
        healed = self._tell_of_link(plane.interface, links)
        if plane.interface not in links:
            return  # Its return is a change too.
        put_back = self._keep_rules()
        if plane.mode is Mode.INVISIBLE:
            links = await self._make_device(plane, links)
        names = {link.index: link.name for link in links.values()}
        for placed in await self._place(plane, links):
            put_back = True
            at = names.get(placed.index, "")
            self._on_event(FarmAddressPutBack(self._farm, str(placed.address.ip), at))
        self._listen(plane, links[plane.interface])
        if (put_back or healed) and plane.answers:
            self.announce()

    def _tell_of_link(self, interface: str, links: dict[str, Link]) -> bool:
        """Whether its carrier came back."""
        before, self._carrier = self._carrier, interface in links and links[interface].carrier
        if self._carrier is before or (before is None and self._carrier):
            return False
        self._on_event((LinkRestored if self._carrier else LinkLost)(self._farm, interface))
        return self._carrier

    # --- the wire ---------------------------------------------------------------------------------------

    def _listen(self, plane: Plane, link: Link) -> None:
        if self._wire is not None and (self._wire.interface, self._wire.index) == (link.name, link.index):
            return
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        try:
            self._wire = Wire(link.name, link.index, self._heard)
        except OSError as fault:
            why = f"cannot announce on {link.name}: {fault.strerror}"
            raise AddressRefused(", ".join(plane.addresses), why) from fault

    def _say(self) -> None:
        plane, wire = self._plane, self._wire
        if plane is None or wire is None:
            return
        mac = bytes.fromhex(
            (plane.virtual_mac if plane.mode is Mode.INVISIBLE else plane.me.mac).replace(":", "")
        )
        for address in sorted(plane.answers):
            # Behind an ended lease another node may answer for it.
            if not is_silenced(self._have.kernel, address):
                for frame in frames(ip_address(address), mac):
                    wire.send(frame)

    def _say_no_more(self) -> None:
        if (task := self._tasks.pop("announce", None)) is not None:
            task.cancel()

    def _hang_up(self) -> None:
        self._say_no_more()
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _heard(self, _: str, address: Address, mac: bytes) -> None:
        plane = self._plane
        if plane is None or address not in _ips(plane) or mac in _macs(plane):
            return
        now = asyncio.get_running_loop().time()
        if now - self._conflict_at.get(address, -CONFLICT_PACE_S) < CONFLICT_PACE_S:
            return
        self._conflict_at[address] = now
        self._on_event(FarmAddressConflict(self._farm, str(address), mac.hex(":")))
        self._say()

    @property
    def _have(self) -> _Hands:
        assert self._hands is not None, "start comes first"
        return self._hands


@dataclass(slots=True)
class _Hands:
    """All conversations with the kernel, opened and closed together."""

    net: Netlink
    nft: Nft
    kernel: Nfnetlink
    changes: Changes
    rule_changes: RuleChanges

    @classmethod
    async def open(cls, table: str, on_change: Callable[[], None]) -> _Hands:
        net = Netlink()
        await net.open()
        return cls(
            net,
            open_nft(),
            Nfnetlink(),
            Changes(on_change),
            RuleChanges(table, on_change),
        )

    def close(self) -> None:
        self.net.close()
        self.kernel.close()
        self.changes.close()
        self.rule_changes.close()


async def macs(interface: str, addresses: Iterable[str]) -> dict[str, str]:
    """The hardware addresses of other nodes on the farm's interface, asked for by ARP and neighbour
    solicitation; without those who do not answer."""
    net = Netlink()
    await net.open()
    try:
        links = await net.links()
    finally:
        net.close()
    if interface not in links or not links[interface].up:
        return {}
    link = links[interface]
    found = await who_has(link.name, link.index, link.mac, map(ip_address, addresses))
    return {str(address): mac.hex(":") for address, mac in found.items()}


def _require(plane: Plane, links: dict[str, Link]) -> Link:
    if plane.interface not in links:
        raise InterfaceUnfit(plane.interface, "there is none of this name on this node")
    link = links[plane.interface]
    if not link.up:
        raise InterfaceUnfit(plane.interface, "it is down")
    return link


def _ips(plane: Plane) -> frozenset[Address]:
    return frozenset(map(ip_address, plane.addresses))


def _macs(plane: Plane) -> frozenset[bytes]:
    """The hardware addresses that may be told for the farm's addresses."""
    told = [plane.me.mac, *(peer.mac for peer in plane.peers), plane.virtual_mac]
    return frozenset(bytes.fromhex(mac.replace(":", "")) for mac in told if mac)


def _wanted(plane: Plane, links: dict[str, Link]) -> list[Placed]:
    """On the loopback everywhere: there it is this node's own, and nobody asks for it. On the interface where
    it is asked for: so that a change of who answers takes no address from a connection."""
    everywhere = plane.device if plane.mode is Mode.INVISIBLE else "lo"
    places = [(everywhere, address) for address in plane.addresses]
    if plane.mode is not Mode.INVISIBLE:
        places += [(plane.interface, address) for address in sorted(plane.claims)]
    return [Placed(links[name].index, ip_interface(address)) for name, address in places]


def _is_ours(placed: Placed, plane: Plane) -> bool:
    return placed.address in {ip_interface(address) for address in plane.addresses}


def _quieten(device: str) -> None:
    """Before it is up: packets come here whose replies leave elsewhere, and it has no life of its own."""
    for setting, value in (
        ("ipv4/conf/{}/rp_filter", "2"),
        # Else it would tell the virtual hardware address for each address of this node.
        ("ipv4/conf/{}/arp_ignore", "1"),
        ("ipv4/conf/{}/arp_announce", "2"),
        ("ipv6/conf/{}/accept_ra", "0"),
        ("ipv6/conf/{}/addr_gen_mode", "1"),
    ):
        try:
            with open(f"/proc/sys/net/{setting.format(device)}", "w") as file:
                file.write(value)
        except FileNotFoundError:
            continue  # a kernel without IPv6
