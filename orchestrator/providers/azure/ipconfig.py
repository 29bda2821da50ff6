"""`nic-ipconfig`: an address of the subnet that the nodes share, on the network interface of one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Final

from azure.mgmt.network.models import (
    NetworkInterfaceIPConfiguration,
    NetworkInterfaceIPConfigurationPropertiesFormat,
    Subnet,
)

from orchestrator.providers.azure.ground import DONE, Part
from orchestrator.providers.azure.interfaces import LeftS, rewrite, settled
from orchestrator.providers.azure.mode import WANTED, AzureMode, called, is_wanted, state_of
from orchestrator.providers.azure.names import Resource, resource
from orchestrator.providers.azure.rights import (
    ASK,
    READ_NETWORK,
    WRITE_NIC,
    Right,
    Where,
    by_scope,
    joined,
)
from orchestrator.providers.faults import PlaceWrong, ProviderFault
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Sight

RELEASE_S: Final = 5.0
"""How long letting go waits for another change of the interface; a successor takes it all the same."""


class IpConfiguration(AzureMode):
    """Taken from who was seen to have it, each interface under its ETag; Azure lets nobody have it twice."""

    name = "nic-ipconfig"

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """One request for all interfaces of a resource group."""
        try:
            listed = self._ground.listed()
        except ProviderFault as fault:
            return dict.fromkeys([vip.address for vip in vips], fault)
        return {vip.address: self.judged(vip, {vip.address: self._part(vip, listed)}, False) for vip in vips}

    def _part(self, vip: Vip, listed: Sequence[Any]) -> Part:
        holders = {str(nic.id).lower(): each for nic in listed for each in self._held(nic, vip)}
        states = [state_of(each) for each in holders.values()]
        return Part(frozenset(holders), next((state for state in states if state != DONE), DONE))

    def _held(self, nic: Any, vip: Vip) -> list[Any]:
        """Its configurations with this address, in this subnet: other networks have the same numbers."""
        subnet = self._ground.me.subnet.lower()
        return [
            each
            for each in nic.ip_configurations or ()
            if each.private_ip_address == vip.address
            and each.subnet is not None
            and str(each.subnet.id).lower() == subnet
        ]

    def check(self, vip: Vip) -> None:
        """All its nodes are in one subnet, and so is it."""
        me = self._ground.me
        subnets = {nic.node: nic.subnet for nic in self._ground.nics(vip)}
        if {subnet.lower() for subnet in subnets.values()} - {me.subnet.lower()}:
            told = ", ".join(
                f"{node} in {subnet.rpartition('/')[2]}" for node, subnet in sorted(subnets.items())
            )
            raise PlaceWrong(
                vip.address,
                f"an IP configuration stays in its subnet, and the nodes lie in several ({told})",
                "use udr or ilb-probe",
            )
        if not self._ground.in_subnet(vip.address):
            prefixes = ", ".join(self._ground.subnet_prefixes())
            text = f"does not lie in subnet {me.subnet.rpartition('/')[2]} ({prefixes})"
            raise PlaceWrong(vip.address, text, "choose an address of the subnet")

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        """The former interface must have let go before Azure gives the address to another."""
        part, me = self.seen(vip), self._ground.me
        owners = part.owners
        others = [one for text in sorted(owners - {me.key}) if (one := resource(text)) is not None]
        for one in others:
            self._take_off(one, vip, leave.left_s)
        for one in others:
            settled(self._ground, one, leave.left_s)
        if me.key not in owners or part.state not in WANTED:
            self._put_on(me.resource, vip, leave.left_s)
        return self.ended(vip, {}, leave)

    def _take_off(self, one: Resource, vip: Vip, left_s: LeftS) -> None:
        def without(nic: Any) -> bool:
            held = self._held(nic, vip)
            if any(each.primary for each in held):
                text = f"is the primary address of interface {one.short}"
                raise PlaceWrong(vip.address, text, "choose an address that no interface has for itself")
            nic.ip_configurations = [each for each in nic.ip_configurations if each not in held]
            return bool(held)

        rewrite(self._ground, one, without, left_s)

    def _put_on(self, one: Resource, vip: Vip, left_s: LeftS) -> None:
        def with_it(nic: Any) -> bool:
            held = self._held(nic, vip)
            if held:
                return not all(is_wanted(each) for each in held)
            made = NetworkInterfaceIPConfigurationPropertiesFormat(
                private_ip_address=vip.address,
                private_ip_address_version="IPv6" if ":" in vip.address else "IPv4",
                private_ip_allocation_method="Static",
                primary=False,
                subnet=Subnet(id=self._ground.me.subnet),
            )
            configuration = NetworkInterfaceIPConfiguration(name=called(vip.address), properties=made)
            nic.ip_configurations = [*nic.ip_configurations, configuration]
            return True

        rewrite(self._ground, one, with_it, left_s)

    def release(self, vip: Vip) -> None:
        """From this node's own interface: where it has moved on, nothing is hit."""
        ends = monotonic() + RELEASE_S
        self._take_off(self._ground.me.resource, vip, lambda: ends - monotonic())

    @staticmethod
    def rights(vip: Vip, where: Where) -> list[Right]:
        return [
            Right(where.network, (READ_NETWORK,)),
            *by_scope(where.interfaces, WRITE_NIC, ASK),
            *joined(where.links),
        ]
