"""`alias-ip`: an address of the subnetwork that the nodes share, on the network interface of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.cloud import compute_v1

from orchestrator.providers.faults import MetadataSilent, PlaceWrong, ProviderFault
from orchestrator.providers.gcp.account import last, path_of, project_of
from orchestrator.providers.gcp.ground import Nic
from orchestrator.providers.gcp.mode import GcpMode, Trial
from orchestrator.providers.gcp.routes import instance_trial
from orchestrator.providers.modes import lies_in
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Finding, Sight
from orchestrator.providers.sending import side_by_side

CLIENT = compute_v1.InstancesClient
USE = ("compute.instances.get", "compute.instances.updateNetworkInterface")


class Alias(GcpMode):
    """Taken from who was seen to have it, then added: GCP gives it to one alone. Each change is made under
    the fingerprint that was seen, so who is late is refused."""

    name = "alias-ip"

    # --- looking ----------------------------------------------------------------------------------------

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """One request for each node. Only what no node has is looked for among all instances."""
        addresses = [vip.address for vip in vips]
        try:
            owners = _owners(addresses, self._interfaces())
            if not all(owners.values()):
                owners = _owners(addresses, self._neighbours())
        except ProviderFault as fault:
            return dict.fromkeys(addresses, fault)
        return {address: self._ground.sight({address: owners[address]}) for address in addresses}

    def _interfaces(self) -> Mapping[str, Any]:
        """By instance, the interface of each node as it is now; nothing of an instance that is gone."""
        found: dict[str, Any] = {}

        def get(nic: Nic) -> Callable[[], None]:
            def deed() -> None:
                _, project, _, zone, _, name = nic.instance.split("/")
                words = {"project": project, "zone": zone, "instance": name}
                told = self._account.ask("get", CLIENT, f"the look at {name}", **words)
                found[nic.instance] = next(
                    (each for each in told.network_interfaces if each.name == nic.name), None
                )

            return deed

        failed = side_by_side({nic.instance: get(nic) for nic in self._ground.nics()})
        for fault in failed.values():
            if not isinstance(fault, PlaceWrong):
                raise fault
        return {instance: one for instance, one in found.items() if one is not None}

    def _neighbours(self) -> Mapping[str, Any]:
        """By instance, every interface in this node's subnetwork."""
        subnet = self._ground.me.subnet
        return {
            path_of(instance.self_link): interface
            for instance in self._ground.instances()
            for interface in instance.network_interfaces
            if path_of(interface.subnetwork) == subnet
        }

    def check(self, vip: Vip) -> None:
        """All its nodes are in one subnetwork, and so is it."""
        if ":" in vip.address:
            raise PlaceWrong(vip.address, "GCP has aliases for IPv4 alone", "use route or ilb-probe")
        me = self._ground.me
        subnets = {node: nic.subnet for node in vip.nodes if (nic := self._ground.nic(node)) is not None}
        if set(subnets.values()) - {me.subnet}:
            told = ", ".join(f"{node} in {last(subnet)}" for node, subnet in sorted(subnets.items()))
            text = f"an alias stays in its subnetwork, and the nodes lie in several ({told})"
            raise PlaceWrong(vip.address, text, "use route or ilb-probe")
        subnet = self._ground.subnet()
        if subnet.range_of(vip.address) is None:
            told = ", ".join(subnet.ranges.values())
            text = f"does not lie in {last(me.subnet)} ({told})"
            raise PlaceWrong(vip.address, text, "choose an address of the subnetwork")

    # --- moving -----------------------------------------------------------------------------------------

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        """Off the others first: GCP gives an address that somebody has to nobody."""
        interfaces = self._interfaces()
        for nic in self._ground.nics():
            interface = interfaces.get(nic.instance)
            if nic != self._ground.me and interface is not None and _has(interface, vip.address):
                self._account.carry_out(*self._removal(nic, interface, vip), leave)
        me = self._ground.me
        mine = interfaces.get(me.instance)
        if mine is None:
            raise PlaceWrong(me.machine, f"has no interface {me.name} any more", "restart the agent")
        if not _has(mine, vip.address):
            self._account.carry_out(*self._addition(me, mine, vip), leave)
        return {}

    def release(self, vip: Vip) -> None:
        """By this node's own interface: where it has moved on, nothing is hit. Nobody waits for its end."""
        me = self._ground.me
        interface = self._interfaces().get(me.instance)
        if interface is not None and _has(interface, vip.address):
            _, begin = self._removal(me, interface, vip)
            begin()

    def _removal(self, nic: Nic, interface: Any, vip: Vip) -> tuple[str, Callable[[], Any]]:
        kept = [each for each in _ranges(interface) if not _is(each, vip.address)]
        what = f"the removal of {vip.address} from {nic.machine}"
        return what, lambda: self._write(nic, interface, kept, what)

    def _addition(self, nic: Nic, interface: Any, vip: Vip) -> tuple[str, Callable[[], Any]]:
        name = self._ground.subnet().range_of(vip.address)
        one = {"ipCidrRange": f"{vip.address}/32"} | ({"subnetworkRangeName": name} if name else {})
        what = f"the addition of {vip.address} to {nic.machine}"
        return what, lambda: self._write(nic, interface, [*_ranges(interface), one], what)

    def _write(self, nic: Nic, interface: Any, ranges: Sequence[Mapping[str, str]], what: str) -> Any:
        """The list is written whole. The library leaves an empty one out of the request, which then changes
        nothing and is answered with success; so the body is made here."""
        body = {"fingerprint": interface.fingerprint, "aliasIpRanges": list(ranges)}
        words = {"networkInterface": nic.name}
        return self._account.patch(f"{nic.instance}/updateNetworkInterface", words, body, what)

    def settled(self, vip: Vip) -> bool:
        """The instance is told when it has it."""
        if not self._ground.has_metadata:
            return True
        try:
            return any(lies_in(vip.address, each) for each in self._ground.metadata.aliases())
        except MetadataSilent:
            return True

    # --- beforehand -------------------------------------------------------------------------------------

    def trials(self, vip: Vip) -> Iterable[Trial]:
        for nic in self._ground.nics():
            if nic.node in vip.nodes:
                yield instance_trial(nic, USE)
        subnet = self._ground.me.subnet
        words = {
            "project": project_of(subnet, self._account.project),
            "region": subnet.split("/")[3],
            "resource": last(subnet),
        }
        yield Trial(compute_v1.SubnetworksClient, words, ("compute.subnetworks.use",))

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        self._ground.learn()
        return super().preflight(vip, repair, leave)

    @staticmethod
    def rights(vips: Sequence[Vip]) -> Iterable[str]:
        return (
            *USE,
            "compute.subnetworks.list",
            "compute.subnetworks.use",
            "compute.zoneOperations.get",
        )


def _owners(addresses: Sequence[str], interfaces: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """By address, the instances that have it; who has it in a wider range, or as its own, is none of ours."""
    owners: dict[str, set[str]] = {address: set() for address in addresses}
    for instance, interface in interfaces.items():
        for address in addresses:
            if _has(interface, address):
                owners[address].add(instance)
            wider = [
                each["ipCidrRange"]
                for each in _ranges(interface)
                if lies_in(address, each["ipCidrRange"]) and not _is(each, address)
            ]
            own = [interface.network_i_p] if interface.network_i_p == address else []
            owners[address] |= {f"{last(instance)} with {each}" for each in (*wider, *own)}
    return {address: frozenset(found) for address, found in owners.items()}


def _has(interface: Any, address: str) -> bool:
    return any(_is(each, address) for each in _ranges(interface))


def _is(one: Mapping[str, str], address: str) -> bool:
    return one["ipCidrRange"] in (f"{address}/32", address)


def _ranges(interface: Any) -> list[dict[str, str]]:
    """As they are written."""
    return [
        {"ipCidrRange": each.ip_cidr_range}
        | ({"subnetworkRangeName": each.subnetwork_range_name} if each.subnetwork_range_name else {})
        for each in interface.alias_ip_ranges
    ]
