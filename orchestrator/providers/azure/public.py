"""`public-ip`: a public address that Azure translates to the own address of one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Final

from azure.mgmt.network.models import PublicIPAddress

from orchestrator.providers.azure.account import NAME
from orchestrator.providers.azure.ground import Part
from orchestrator.providers.azure.interfaces import LeftS, rewrite, settled
from orchestrator.providers.azure.ipconfig import RELEASE_S
from orchestrator.providers.azure.mode import WANTED, AzureMode, is_wanted, state_of
from orchestrator.providers.azure.names import NAMESPACE, Resource, holder, resource
from orchestrator.providers.azure.rights import ASK, JOINS, WRITE_NIC, Right, Where, by_scope, joined
from orchestrator.providers.faults import PlaceWrong, ProviderFault, ProviderRefused
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Sight

READ: Final = f"{NAMESPACE}/publicIPAddresses/read"


class PublicIp(AzureMode):
    """Taken from the interface that was seen to have it, each under its ETag; it has one user at a time."""

    name = "public-ip"
    local = False
    settings = ("public_ip",)

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """One request each, and one for this node's interface where it has it."""
        seen: dict[str, Sight | Exception] = {}
        for vip in vips:
            try:
                seen[vip.address] = self.judged(vip, {vip.address: self._part(vip)}, by_address=False)
            except ProviderFault as fault:
                seen[vip.address] = fault
        return seen

    def _named(self, vip: Vip) -> Resource:
        return self._ground.names.find("publicIPAddresses", vip.setting("public_ip"))

    def _found(self, vip: Vip) -> Any:
        one = self._named(vip)
        client = self._client(one)
        return self._call(
            lambda: client.public_ip_addresses.get(one.group, one.names[0]), f"public IP address {one.short}"
        )

    def _part(self, vip: Vip) -> Part:
        owner, me = _user(self._found(vip)), self._ground.me
        if owner.lower() != me.key:
            return Part(frozenset({owner}) if owner else frozenset())
        # It says at once who is to have it; the interface says whether that is done.
        client = self._client(me.resource)
        nic = self._call(
            lambda: client.network_interfaces.get(me.resource.group, me.resource.names[0]),
            f"interface {me.resource.short}",
        )
        held = [each for each in nic.ip_configurations or () if self._has(each, vip)]
        return Part(frozenset({owner}), state_of(held[0]) if held else "Updating")

    def _has(self, configuration: Any, vip: Vip) -> bool:
        public = configuration.public_ip_address
        return public is not None and str(public.id).lower() == self._named(vip).key

    def check(self, vip: Vip) -> None:
        """It is that address, and this node's configuration is free for it."""
        found = self._found(vip)
        if found.ip_address != vip.address:
            text = f"is {found.ip_address or 'not allocated'}, and the virtual IP {vip.address}"
            raise PlaceWrong(f"public IP address {found.name}", text, "correct one of them")
        me = self._ground.me
        if me.public and me.public.lower() != self._named(vip).key:
            text = f"its configuration has another public address ({me.public.rpartition('/')[2]})"
            raise PlaceWrong(f"interface {me.resource.short}", text, "take that one off: it can have one")

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        """The former interface must have let go before Azure gives it to another."""
        part, me = self.seen(vip), self._ground.me
        owner = resource(next(iter(part.owners), ""))
        if owner is not None and owner.key != me.key:
            self._take_off(owner, vip, leave.left_s)
            settled(self._ground, owner, leave.left_s)
        if owner is None or owner.key != me.key or part.state not in WANTED:
            self._put_on(vip, leave.left_s)
        return self.ended(vip, {}, leave)

    def _take_off(self, one: Resource, vip: Vip, left_s: LeftS) -> None:
        def without(nic: Any) -> bool:
            held = [each for each in nic.ip_configurations or () if self._has(each, vip)]
            for each in held:
                each.public_ip_address = None
            return bool(held)

        rewrite(self._ground, one, without, left_s)

    def _put_on(self, vip: Vip, left_s: LeftS) -> None:
        me = self._ground.me

        def with_it(nic: Any) -> bool:
            own = next(each for each in nic.ip_configurations if each.private_ip_address == me.address)
            if self._has(own, vip):
                return not is_wanted(own)
            if own.public_ip_address is not None:
                raise ProviderRefused(NAME, f"interface {nic.name}", "it has another public address by now")
            own.public_ip_address = PublicIPAddress(id=self._named(vip).id)
            return True

        rewrite(self._ground, me.resource, with_it, left_s)

    def release(self, vip: Vip) -> None:
        """From this node's own interface: where it has moved on, nothing is hit."""
        ends = monotonic() + RELEASE_S
        self._take_off(self._ground.me.resource, vip, lambda: ends - monotonic())

    @staticmethod
    def rights(vip: Vip, where: Where) -> list[Right]:
        public = where.names.find("publicIPAddresses", vip.setting("public_ip")).id
        return [
            Right(public, (READ, JOINS["public"], ASK)),
            *by_scope(where.interfaces, WRITE_NIC, ASK),
            *joined(link for link in where.links if link != (public, JOINS["public"])),
        ]


def _user(found: Any) -> str:
    """The interface, or whatever else has it, by identifier; nothing: nobody."""
    user = found.ip_configuration or found.nat_gateway
    return holder(str(user.id)) if user is not None else ""
