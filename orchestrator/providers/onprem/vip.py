"""Virtual IPs where the nodes share a subnet: put on an interface, announced, kept, taken away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from orchestrator.host.announce import BURST_S, PROBE_S, Address, Wire, frames, probe, say_again
from orchestrator.host.netlink import Changes, Interface, Link, Netlink, Placed, Route
from orchestrator.host.nfnetlink import Nfnetlink
from orchestrator.host.nft import is_silenced
from orchestrator.model.config import VipConfig
from orchestrator.model.errors import AddressRefused, ProcessUnreachable
from orchestrator.model.events import LinkLost, LinkRestored
from orchestrator.model.names import Epoch, ModuleName, NodeName
from orchestrator.providers.onprem.links import address_of, place, restored, sourced
from orchestrator.providers.provider import (
    AddressConflict,
    AddressPutBack,
    Finding,
    HeldAddress,
    Owner,
    ProviderEvent,
    Sight,
)

SETTLE_S: Final = 0.05
"""From a change to our look at the kernel: changes come in bursts, those of our own claim are not to delay
what follows it, and a rival that keeps removing an address cannot make us spin."""
CONFLICT_PACE_S = 1.0
"""Between two answers to one conflict, so that two holders do not shout as fast as they can."""


class OnPrem:
    """The provider of one module in one layer 2 network per address; keeps `providers.provider.Provider`."""

    def __init__(
        self, module: ModuleName, vips: tuple[VipConfig, ...], on_event: Callable[[ProviderEvent], None]
    ) -> None:
        self._module = module
        self._vips = {address_of(vip): vip for vip in vips}
        self._on_event = on_event
        self._wanted = False
        self._held: dict[Interface, Link] = {}
        self._carrier: dict[str, bool] = {}
        self._wires: dict[str, Wire] = {}
        self._routes_before: dict[Interface, list[Route]] = {}
        self._routes_after: dict[Interface, list[Route]] = {}
        self._claims: dict[Address, str] = {}
        """Who else said to have which of our addresses, by MAC, most recently."""
        self._conflict_at: dict[Address, float] = {}
        self._kernel: Netlink | None = None
        self._known: tuple[dict[str, Link], list[Placed]] | None = None
        """The kernel's links and addresses when they were last read."""
        self._rules: Nfnetlink | None = None
        self._changes: Changes | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    # --- the contract -----------------------------------------------------------------------------------

    async def start(self, held: bool) -> None:
        """Watch links and addresses; keep what an earlier agent claimed, or remove left-overs."""
        assert self._kernel is None, "started once"
        self._kernel = Netlink()
        await self._kernel.open()
        self._rules = Nfnetlink()
        self._changes = Changes(self._changed.set)
        self._wanted = held
        async with self._one_at_a_time:
            if not held:
                await self._take_away()
            await self._look()
        if self._held and "announce" not in self._tasks:
            self._tasks["announce"] = asyncio.create_task(say_again(self._say, ()))
        self._tasks["watch"] = asyncio.create_task(self._watch())

    async def observe(self) -> Sight:
        """MINE when all are here; else each network is asked, which takes PROBE_S."""
        links, addresses = await self._net.links(), await self._net.addresses()
        if self._vips.keys() <= {placed.address for placed in addresses}:
            return Sight(Owner.MINE)
        self._claims.clear()
        for address, vip in self._vips.items():
            try:
                link = place(vip, links, addresses, frozenset(self._vips))
                self._wire(link).send(probe(address.ip, link.mac))
            except (AddressRefused, OSError):
                continue  # Without an interface there is nobody to ask; a claim will say why.
        await asyncio.sleep(PROBE_S)
        others = ", ".join(f"{address} is at {mac}" for address, mac in self._claims.items())
        return Sight(Owner.FOREIGN, detail=others) if others else Sight(Owner.NOBODY)

    async def claim(self, expected: frozenset[NodeName], epoch: Epoch) -> None:
        """Here when it returns. Nobody is asked first: the lease guards, and it takes time."""
        assert epoch > 0, "addresses belong to a reign"
        async with self._one_at_a_time:
            places = self._places(*await self._known_or_asked())
            self._wanted = True
            try:
                for address, link in places.items():
                    await self._put(address, link)
            except AddressRefused:
                self._known = None
                await self._take_away()
                raise

    async def _known_or_asked(self) -> tuple[dict[str, Link], list[Placed]]:
        """The kernel's lists as last read, when nothing changed since: a take-over is waiting."""
        if self._changes is not None:
            self._changes.hear()
        if self._known is None or self._changed.is_set():
            self._known = await self._net.links(), await self._net.addresses()
        return self._known

    def _places(self, links: dict[str, Link], addresses: list[Placed]) -> dict[Interface, Link]:
        places = {
            address: place(vip, links, addresses, frozenset(self._vips))
            for address, vip in self._vips.items()
        }
        for address, link in places.items():
            if not link.up:
                raise AddressRefused(
                    str(address), f"interface {link.name} is down; `ip link set {link.name} up`"
                )
        return places

    async def release(self, epoch: Epoch) -> None:
        """Gone from every interface when it returns."""
        async with self._one_at_a_time:
            await self._take_away()

    async def announce(self) -> None:
        """One announcement at once, the rest of the burst by itself; nothing where nothing is held."""
        if (task := self._tasks.pop("announce", None)) is not None:
            task.cancel()
        if self._held:
            self._say()
            self._tasks["announce"] = asyncio.create_task(say_again(self._say, BURST_S))

    def held(self) -> list[HeldAddress]:
        return [HeldAddress(str(address), link.name) for address, link in self._held.items()]

    @property
    def conflicts(self) -> dict[str, str]:
        """The MACs that said to have an address while we held it, since the claim."""
        return {str(address): mac for address, mac in self._claims.items()} if self._wanted else {}

    async def preflight(self) -> list[Finding]:
        """What would refuse or disturb a claim."""
        links, addresses = await self._net.links(), await self._net.addresses()
        found = []
        for address, vip in self._vips.items():
            try:
                link = place(vip, links, addresses, frozenset(self._vips))
            except AddressRefused as fault:
                found.append(Finding(str(address), fault.why, "correct `vip:` or the node's network"))
                continue
            if not link.carrier:
                remedy = "plug it in, or set it up"
                found.append(Finding(str(address), f"interface {link.name} has no carrier", remedy))
        return found

    async def close(self) -> None:
        """Watch no more; the addresses stay, the next agent adopts them."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()
        if self._changes is not None:
            self._changes.close()
            self._changes = None
        if self._rules is not None:
            self._rules.close()
            self._rules = None
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None

    # --- putting and taking -----------------------------------------------------------------------------

    async def _put(self, address: Interface, link: Link) -> None:
        self._net.add(Placed(link.index, address), preferred=self._vips[address].source)
        try:
            self._wire(link)
        except OSError as fault:
            raise AddressRefused(str(address), f"cannot announce on {link.name}: {fault.strerror}") from fault
        if self._vips[address].source:
            await self._become_source(address, link)
        self._held[address] = link

    async def _become_source(self, address: Interface, link: Link) -> None:
        # When an address vanishes the kernel drops the routes that name it: these are written again first.
        for route in self._routes_after.get(address, []):
            await self._net.write_route(route)
        changes = sourced(address, await self._net.routes(link.index, address.version))
        for _, route in changes:
            await self._net.write_route(route)
        self._routes_before.setdefault(address, []).extend(before for before, _ in changes)
        self._routes_after.setdefault(address, []).extend(after for _, after in changes)

    async def _take_away(self) -> None:
        """Remove the addresses wherever they are, also where an earlier agent put them."""
        self._wanted = False
        self._held.clear()
        self._claims.clear()
        if (task := self._tasks.pop("announce", None)) is not None:
            task.cancel()
        addresses = await self._net.addresses()
        own = [placed for placed in addresses if placed.address not in self._vips]
        for placed in addresses:
            if placed.address in self._vips:
                await self._stop_being_source(placed, own)
                self._net.remove(placed)
        self._routes_before.clear()
        self._routes_after.clear()

    async def _stop_being_source(self, placed: Placed, own: list[Placed]) -> None:
        # First the routes: the kernel deletes an IPv4 route together with the source that it names.
        if not self._vips[placed.address].source:
            return
        routes = await self._net.routes(placed.index, placed.address.version)
        for route in restored(placed.address, routes, self._routes_before.get(placed.address, ()), own):
            await self._net.write_route(route)

    # --- watching ---------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(SETTLE_S)
            self._changed.clear()
            self._known = None
            async with self._one_at_a_time:
                try:
                    await self._look()
                except ProcessUnreachable:
                    self._changed.set()  # The kernel's lists could not be read whole: look again.

    async def _look(self) -> None:
        """Compare the kernel with what should be; tell of links, put back what vanished."""
        links, addresses = self._known = await self._net.links(), await self._net.addresses()
        places: dict[Interface, Link] = {}
        for address, vip in self._vips.items():
            before = self._held.get(address)
            try:
                places[address] = place(vip, links, addresses, frozenset(self._vips))
            except AddressRefused:
                # The interface lost its own address, or is away: an address stays where it was put.
                if before is not None and before.name in links:
                    places[address] = links[before.name]
        for address, link in places.items():
            self._net.get_ready(Placed(link.index, address), preferred=self._vips[address].source)
        healed = self._tell_of_links(links, {link.name for link in places.values()})
        if not self._wanted:
            return
        put = [
            address
            for address, link in places.items()
            if link.up and await self._keep(address, link, addresses)
        ]
        if healed or put:
            await self.announce()

    def _tell_of_links(self, links: dict[str, Link], names: set[str]) -> bool:
        """Whether a carrier came back."""
        healed = False
        for name in sorted(names | self._carrier.keys()):
            carrier = name in links and links[name].carrier
            if self._carrier.get(name, True) == carrier:
                self._carrier[name] = carrier
                continue
            self._carrier[name] = carrier
            healed = healed or carrier
            self._on_event((LinkRestored if carrier else LinkLost)(self._module, name))
        return healed

    async def _keep(self, address: Interface, link: Link, addresses: list[Placed]) -> bool:
        """Put an address back that vanished; whether it had."""
        if Placed(link.index, address) in addresses:
            held = self._held.get(address)
            if held is not None and (held.index, held.mac) == (link.index, link.mac):
                return False
            await self._put(address, link)
            # Adopted from an earlier agent it is known to everybody already; under another MAC it is not.
            return held is not None
        try:
            await self._put(address, link)
        except AddressRefused:
            return False  # The interface is just going away; its change wakes us again.
        self._on_event(AddressPutBack(self._module, str(address), link.name))
        return True

    # --- the wire ---------------------------------------------------------------------------------------

    def _say(self) -> None:
        """Announce what this machine answers for: behind an ended lease another node may have the address."""
        rules = self._rules
        assert rules is not None, "start comes first"
        for address, link in self._held.items():
            if not is_silenced(rules, str(address.ip)):
                for frame in frames(address.ip, link.mac):
                    self._wires[link.name].send(frame)

    def _wire(self, link: Link) -> Wire:
        wire = self._wires.get(link.name)
        if wire is None or wire.index != link.index:
            # An interface that was made anew has the old name, but the old socket is deaf.
            if wire is not None:
                wire.close()
            wire = self._wires[link.name] = Wire(link.name, link.index, self._heard)
        return wire

    def _heard(self, interface: str, address: Address, mac: bytes) -> None:
        holder = next((link for held, link in self._held.items() if held.ip == address), None)
        if address not in {vip.ip for vip in self._vips} or (holder is not None and mac == holder.mac):
            return
        self._claims[address] = mac.hex(":")
        if holder is None or holder.name != interface:
            return
        now = time.monotonic()
        if now - self._conflict_at.get(address, -CONFLICT_PACE_S) < CONFLICT_PACE_S:
            return
        self._conflict_at[address] = now
        self._on_event(AddressConflict(self._module, str(address), mac.hex(":")))
        self._say()

    @property
    def _net(self) -> Netlink:
        assert self._kernel is not None, "start comes first"
        return self._kernel
