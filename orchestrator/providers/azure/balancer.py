"""`ilb-probe`: all nodes are members of a load balancer, whose probe asks their health ports who serves."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from orchestrator.model.names import NodeName
from orchestrator.providers.azure.mode import AzureMode, plain
from orchestrator.providers.azure.names import NAMESPACE, Resource, holder
from orchestrator.providers.azure.rights import Right, Where
from orchestrator.providers.faults import PlaceWrong, ProviderFault
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Finding, Owner, Sight

PROBE_S: Final = 1.0
"""A health port answers from memory."""
AT_ONCE: Final = 8
READ: Final = f"{NAMESPACE}/loadBalancers/read"


class Probe(AzureMode):
    """A move asks nothing of Azure."""

    name = "ilb-probe"
    by_probe = True
    settings = ("load_balancer",)

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """Azure does not tell whom its probes find well, so the nodes are asked as the probes ask them."""
        asked = [(vip, node) for vip in vips for node in vip.nodes]
        with ThreadPoolExecutor(AT_ONCE, "probe") as threads:
            answers = list(threads.map(lambda each: self._serves(*each), asked))
        well: dict[str, list[NodeName]] = {vip.address: [] for vip in vips}
        for (vip, node), answer in zip(asked, answers, strict=True):
            if answer:
                well[vip.address].append(node)
        return {address: self._seen(nodes) for address, nodes in well.items()}

    def _serves(self, vip: Vip, node: NodeName) -> bool:
        place = self._ground.place
        hosts = [f"[{own}]" if ":" in own else own for own in place.addresses.get(node, ())]
        return any(says_yes(f"http://{host}:{place.health_port}{page(vip)}") for host in hosts)

    def _seen(self, well: Sequence[NodeName]) -> Sight:
        if not well:
            return Sight(Owner.NOBODY, detail="no health port says yes")
        mine = list(well) == [self._ground.place.me]
        owner = Owner.MINE if mine else Owner.NODE if len(well) == 1 else Owner.AMBIGUOUS
        return Sight(owner, frozenset(well), f"the health port of {', '.join(well)} says yes")

    # --- beforehand -------------------------------------------------------------------------------------

    def _named(self, vip: Vip) -> Resource:
        return self._ground.names.find("loadBalancers", vip.setting("load_balancer"))

    def _found(self, vip: Vip) -> Any:
        one = self._named(vip)
        client = self._client(one)
        return self._call(
            lambda: client.load_balancers.get(one.group, one.names[0]), f"load balancer {one.short}"
        )

    def check(self, vip: Vip) -> None:
        """The load balancer is there, and the address is one of its frontends."""
        _frontend(self._found(vip), vip)

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        return {}

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        """What the load balancer asks where, and whom it would send to."""
        found = super().preflight(vip, repair, leave)
        balancer = self._found(vip)
        front = str(_frontend(balancer, vip).id).lower()
        rules = [
            rule
            for rule in balancer.load_balancing_rules or ()
            if rule.frontend_ip_configuration is not None
            and str(rule.frontend_ip_configuration.id).lower() == front
        ]
        if not rules:
            text = f"no rule of it leads {vip.address} anywhere"
            remedy = "add one, best for all ports (protocol All, port 0) with floating IP"
            return [*found, Finding(f"load balancer {balancer.name}", text, remedy)]
        probes = {str(probe.id).lower(): probe for probe in balancer.probes or ()}
        pools = {str(pool.id).lower(): pool for pool in balancer.backend_address_pools or ()}
        for rule in rules:
            probe = probes.get(str(rule.probe.id).lower()) if rule.probe is not None else None
            found += list(self._of_probe(f"rule {balancer.name}/{rule.name}", probe, vip))
        for key in dict.fromkeys(key for rule in rules for key in _pools(rule)):
            if key in pools:
                found += list(
                    self._of_pool(f"backend pool {balancer.name}/{pools[key].name}", pools[key], vip)
                )
        return list(dict.fromkeys(found))

    def _of_probe(self, subject: str, probe: Any, vip: Vip) -> Iterable[Finding]:
        wanted = f"HTTP, port {self._ground.place.health_port}, path {page(vip)}"
        if probe is None:
            yield Finding(subject, "it has no probe: it sends to every node", f"give it one: {wanted}")
            return
        subject = f"probe {probe.name}"
        if plain(probe.protocol).lower() != "http" or probe.request_path != page(vip):
            asked = f"{plain(probe.protocol)} {probe.request_path or 'without a path'}"
            yield Finding(subject, f"it asks {asked}, which is not this module's", wanted)
        if probe.port != self._ground.place.health_port:
            text = f"it asks port {probe.port}"
            yield Finding(
                subject, text, f"port {self._ground.place.health_port}, which is `ports: {{health}}`"
            )
        if plain(probe.no_healthy_backends_behavior) == "AllProbedUp":
            text = "where no node answers well, it sends to all"
            yield Finding(subject, text, "set noHealthyBackendsBehavior to AllProbedDown")

    def _of_pool(self, subject: str, pool: Any, vip: Vip) -> Iterable[Finding]:
        there: dict[str, NodeName | None] = {
            str(each.ip_address): self._ground.node_of_address(each.ip_address)
            for each in pool.load_balancer_backend_addresses or ()
            if each.ip_address
        }
        for each in pool.backend_ip_configurations or ():
            nic = holder(str(each.id))
            there[nic.rpartition("/")[2]] = self._ground.node_of_nic(nic)
        for lacking in sorted(set(vip.nodes) - set(there.values())):
            text = f"{lacking} is not in it, and gets nothing when it serves"
            yield Finding(subject, text, "put every node in it, for ever")
        for name, node in sorted(there.items()):
            if node is None:
                text = f"{name} is no node of this cluster, and would be asked as well"
                yield Finding(subject, text, "take it out")

    @staticmethod
    def rights(vip: Vip, where: Where) -> list[Right]:
        return [Right(where.names.find("loadBalancers", vip.setting("load_balancer")).id, (READ,))]


def page(vip: Vip) -> str:
    """Of the health port: whether this node serves the module."""
    return f"/m/{vip.module}/primary"


def says_yes(url: str) -> bool:
    """As a probe: anything but 200 within the time is a no."""
    # Never through a proxy: it is about this very machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=PROBE_S) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def _frontend(balancer: Any, vip: Vip) -> Any:
    fronts = balancer.frontend_ip_configurations or ()
    name = vip.setting("frontend")
    for each in fronts:
        if (each.name == name) if name else (each.private_ip_address == vip.address):
            return each
    told = ", ".join(f"{each.name} {each.private_ip_address or 'public'}" for each in fronts) or "none"
    problem = f"has no frontend {name}" if name else f"has no frontend with the address {vip.address}"
    remedy = "correct one of them" if name else "correct one of them, or name a public one with `frontend`"
    raise PlaceWrong(f"load balancer {balancer.name}", f"{problem}, but {told}", remedy)


def _pools(rule: Any) -> Iterable[str]:
    one = [rule.backend_address_pool] if rule.backend_address_pool is not None else []
    for each in [*one, *(rule.backend_address_pools or ())]:
        yield str(each.id).lower()
