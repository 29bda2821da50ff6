"""`ilb-probe`: a passthrough load balancer sends to who answers well. A move asks nothing of GCP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from google.cloud import compute_v1

from orchestrator.model.names import NodeName
from orchestrator.providers.faults import PlaceWrong, ProviderFault
from orchestrator.providers.gcp.account import last, path_of, project_of
from orchestrator.providers.gcp.firewall import admits
from orchestrator.providers.gcp.rules import Rules, named
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Finding, Sight

PROBERS: Final[Mapping[tuple[str, int], tuple[str, ...]]] = {
    # By kind and IP version, where Google's probes come from.
    ("INTERNAL", 4): ("35.191.0.0/16", "130.211.0.0/22"),
    ("INTERNAL", 6): ("2600:2d00:1:b029::/64",),
    ("EXTERNAL", 4): ("35.191.0.0/16", "209.85.152.0/22", "209.85.204.0/22"),
    ("EXTERNAL", 6): ("2600:1901:8001::/48",),
}
SCHEMES: Final = frozenset(scheme for scheme, _ in PROBERS)


class Probe(Rules):
    """Every node is in a group behind it, for ever, and the health port says who serves."""

    name = "ilb-probe"
    by_probe = True

    # --- looking ----------------------------------------------------------------------------------------

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """One request for the rules, one for each backend service and one for each group behind it."""
        known: dict[str, frozenset[str]] = {}

        def owners(rule: Any) -> frozenset[str]:
            service = path_of(rule.backend_service)
            if service not in known:
                known[service] = self._healthy(service)
            return known[service]

        return self._sights(vips, owners)

    def _healthy(self, service: str) -> frozenset[str]:
        """The instances that get what comes in now."""
        found: set[str] = set()
        for backend in self._service(service).backends:
            told = self._ask_service(
                "get_health",
                service,
                resource_group_reference_resource=compute_v1.ResourceGroupReference(group=backend.group),
            )
            found |= {path_of(one.instance) for one in told.health_status if one.health_state == "HEALTHY"}
        return frozenset(found)

    def _service(self, service: str) -> Any:
        return self._ask_service("get", service)

    def _ask_service(self, method: str, service: str, **more: Any) -> Any:
        words = {
            "project": project_of(service, self._account.project),
            "region": service.split("/")[3],
            "backend_service": last(service),
        }
        what = f"the look at backend service {last(service)}"
        return self._account.ask(method, compute_v1.RegionBackendServicesClient, what, **words, **more)

    def _check_rule(self, rule: Any) -> None:
        subject = f"forwarding rule {rule.name}"
        if "/regions/" not in rule.backend_service:
            raise PlaceWrong(subject, "leads to no regional backend service", "use mode forwarding-rule")
        if rule.load_balancing_scheme not in SCHEMES:
            text = f"belongs to a load balancer of kind {rule.load_balancing_scheme}"
            raise PlaceWrong(subject, text, "use a passthrough one: INTERNAL or EXTERNAL")

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        return {}

    # --- beforehand -------------------------------------------------------------------------------------

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        self._ground.learn()
        found = super().preflight(vip, repair, leave)
        for rule in named(vip, self._all(), self._ground):
            service = self._service(path_of(rule.backend_service))
            found += _drops(service)
            for check in service.health_checks:
                found += self._asks(vip, path_of(check))
            found += self._grouped(vip, service)
        found += self._admitted(vip)
        return list(dict.fromkeys(found))

    def _asks(self, vip: Vip, check: str) -> list[Finding]:
        """Whether its health check asks the health port for this module."""
        subject = f"health check {last(check)}"
        words = {"project": project_of(check, self._account.project), "health_check": last(check)}
        kind: Any = compute_v1.HealthChecksClient
        if "/regions/" in check:
            kind, words["region"] = compute_v1.RegionHealthChecksClient, check.split("/")[3]
        told = self._account.ask("get", kind, f"the look at {subject}", **words)
        asked, health = told.http_health_check, self._ground.place.health_port
        path = f"/m/{vip.module}/primary"
        found = []
        if told.type_ != "HTTP" or asked.request_path != path:
            where = f"{told.type_} {asked.request_path}".strip()
            text = f"is not this module's: it asks {where or 'nothing'}"
            found.append(Finding(subject, text, f"HTTP, path {path}"))
        if told.type_ == "HTTP" and asked.port != health:
            text = f"asks port {asked.port or 80}"
            found.append(Finding(subject, text, f"port {health}, which is `ports: {{health}}`"))
        return found

    def _grouped(self, vip: Vip, service: Any) -> list[Finding]:
        """Whether each node is in a group behind the service, and nobody else."""
        members = {one for backend in service.backends for one in self._members(path_of(backend.group))}
        there: set[NodeName | None] = {self._ground.node_of(one) for one in members}
        subject = f"backend service {service.name}"
        found = [
            Finding(
                subject, f"no group behind it has {node}", "add its instance to an unmanaged group, for ever"
            )
            for node in sorted(set(vip.nodes) - there)
        ]
        strangers = sorted(last(one) for one in members if self._ground.node_of(one) is None)
        if strangers:
            text = f"{', '.join(strangers)} is no node of this cluster, and would be sent to as well"
            found.append(Finding(subject, text, "take it out of the group"))
        return found

    def _members(self, group: str) -> list[str]:
        """The instances of a zone's group."""
        _, project, _, zone, kind, name = group.split("/")
        if kind != "instanceGroups":
            raise PlaceWrong(f"backend {name}", f"is of {kind}", "use unmanaged instance groups")
        found = self._account.all_of(
            "list_instances",
            compute_v1.InstanceGroupsClient,
            f"the look into group {name}",
            project=project,
            zone=zone,
            instance_group=name,
            instance_groups_list_instances_request_resource=compute_v1.InstanceGroupsListInstancesRequest(),
        )
        return [path_of(each.instance) for each in found]

    def _admitted(self, vip: Vip) -> list[Finding]:
        """Whether the probes reach the health port of each node, as far as the network's own rules go."""
        network = self._ground.me.network
        rules = self._account.all_of(
            "list",
            compute_v1.FirewallsClient,
            "the list of firewall rules",
            project=project_of(network, self._account.project),
        )
        ours = [each for each in rules if path_of(each.network) == network]
        version = 6 if ":" in vip.address else 4
        schemes = {rule.load_balancing_scheme for rule in named(vip, self._all(), self._ground)}
        ranges = sorted({one for scheme in schemes for one in PROBERS[scheme, version]})
        health = self._ground.place.health_port
        found = []
        for nic in self._ground.nics():
            shut = [one for one in ranges if not admits(ours, one, health, nic)]
            if nic.node in vip.nodes and shut:
                text = f"no firewall rule of {last(network)} lets probes from {', '.join(shut)} in"
                found.append(Finding(nic.machine, text, f"allow tcp:{health} from there"))
        return found

    @staticmethod
    def rights(vips: Sequence[Vip]) -> Iterable[str]:
        return (
            "compute.firewalls.list",
            "compute.forwardingRules.list",
            "compute.instanceGroups.list",
            "compute.regionBackendServices.get",
            "compute.regionHealthChecks.get",
        )


def _drops(service: Any) -> list[Finding]:
    """What GCP does by default where nobody is healthy, and with connections of who is not any more."""
    subject, found = f"backend service {service.name}", []
    if not service.failover_policy.drop_traffic_if_unhealthy:
        text = "sends to all groups where no node is healthy"
        found.append(Finding(subject, text, "set failoverPolicy.dropTrafficIfUnhealthy"))
    if service.connection_tracking_policy.connection_persistence_on_unhealthy_backends != "NEVER_PERSIST":
        text = "leaves established connections with a node that is not healthy any more"
        remedy = "set connectionTrackingPolicy.connectionPersistenceOnUnhealthyBackends to NEVER_PERSIST"
        found.append(Finding(subject, text, remedy))
    return found
