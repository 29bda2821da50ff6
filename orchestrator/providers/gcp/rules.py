"""`forwarding-rule`: an address that rules of GCP's pass on unchanged to the target instance of one node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from google.cloud import compute_v1

from orchestrator.providers.faults import PlaceWrong, ProviderFault
from orchestrator.providers.gcp.account import last, path_of
from orchestrator.providers.gcp.ground import Ground
from orchestrator.providers.gcp.mode import GcpMode, Trial
from orchestrator.providers.modes import lies_in
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Finding, Sight
from orchestrator.providers.sending import side_by_side

CLIENT: Final = compute_v1.ForwardingRulesClient
SETTING: Final = "forwarding_rules"
TARGETS: Final = "targetInstances"


class Rules(GcpMode):
    """What both modes have in common whose addresses forwarding rules have."""

    settings = (SETTING,)

    def _all(self) -> Mapping[str, Any]:
        """Of the region, by name: one request for all addresses."""
        return all_rules(self._ground)

    def _sights(
        self, vips: Sequence[Vip], owners: Callable[[Any], frozenset[str]]
    ) -> Mapping[str, Sight | Exception]:
        """`owners`: the instances that a rule leads to."""
        seen: dict[str, Sight | Exception] = {}
        try:
            rules = self._all()
        except ProviderFault as fault:
            return dict.fromkeys([vip.address for vip in vips], fault)
        for vip in vips:
            try:
                seen[vip.address] = self._ground.sight(
                    {rule.name: owners(rule) for rule in named(vip, rules, self._ground)}
                )
            except ProviderFault as fault:
                seen[vip.address] = fault
        return seen

    def check(self, vip: Vip) -> None:
        """Its rules have that address."""
        for rule in named(vip, self._all(), self._ground):
            if not lies_in(vip.address, rule.I_p_address):
                text = f"has {rule.I_p_address}, and the virtual IP is {vip.address}"
                raise PlaceWrong(f"forwarding rule {rule.name}", text, "correct one of them")
            self._check_rule(rule)

    def _check_rule(self, rule: Any) -> None:
        raise NotImplementedError


class Forwarding(Rules):
    """One request moves a rule, with no gap. GCP has no condition for it: the lease guards, looks follow."""

    name = "forwarding-rule"

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """One request for the rules, one for the targets of each zone that they lead to."""
        known: dict[str, Mapping[str, str]] = {}

        def owners(rule: Any) -> frozenset[str]:
            target = path_of(rule.target)
            words = target.split("/")
            if TARGETS not in words:
                return frozenset({target}) if target else frozenset()
            if words[3] not in known:
                known[words[3]] = self._targets(words[3])
            return frozenset({known[words[3]].get(target, target)})

        return self._sights(vips, owners)

    def _targets(self, zone: str) -> Mapping[str, str]:
        """By path, the instance of each target instance."""
        found = self._account.all_of(
            "list",
            compute_v1.TargetInstancesClient,
            f"the list of target instances in {zone}",
            project=self._account.project,
            zone=zone,
        )
        return {path_of(each.self_link): path_of(each.instance) for each in found}

    def _mine(self) -> str:
        """The target instance that is this node's."""
        me = self._ground.me
        mine = [target for target, of in sorted(self._targets(me.zone).items()) if of == me.instance]
        if not mine:
            made = f"gcloud compute target-instances create NAME --zone {me.zone} --instance {me.machine}"
            raise PlaceWrong(me.machine, f"no target instance in {me.zone} has it", f"make one: {made}")
        return mine[0]

    def _check_rule(self, rule: Any) -> None:
        if rule.backend_service:
            text = f"leads to the backend service {last(rule.backend_service)}"
            raise PlaceWrong(f"forwarding rule {rule.name}", text, "use mode ilb-probe")

    def check(self, vip: Vip) -> None:
        super().check(vip)
        self._mine()

    # --- moving -----------------------------------------------------------------------------------------

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        """All rules side by side; one that is refused does not keep the others."""
        mine = self._mine()
        return side_by_side(
            {
                rule.name: self._lead(rule.name, mine, leave)
                for rule in named(vip, self._all(), self._ground)
                if path_of(rule.target) != mine
            }
        )

    def _lead(self, name: str, target: str, leave: Leave) -> Callable[[], None]:
        what = f"the move of forwarding rule {name} to {last(target)}"
        words = {
            "project": self._account.project,
            "region": self._ground.region,
            "forwarding_rule": name,
            "target_reference_resource": compute_v1.TargetReference(target=target),
        }
        return lambda: self._account.carry_out(
            what, lambda: self._begin("set_target_unary", CLIENT, what, **words), leave
        )

    # --- beforehand -------------------------------------------------------------------------------------

    def trials(self, vip: Vip) -> Iterable[Trial]:
        """Of a rule itself Compute Engine cannot be asked."""
        words = {
            "project": self._account.project,
            "zone": self._ground.me.zone,
            "resource": last(self._mine()),
        }
        yield Trial(compute_v1.TargetInstancesClient, words, ("compute.targetInstances.use",))

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        self._ground.learn()
        found = super().preflight(vip, repair, leave)
        for nic in self._ground.nics():
            if nic.node in vip.nodes and nic.instance not in self._targets(nic.zone).values():
                text = f"no target instance in {nic.zone} has it"
                found.append(Finding(nic.machine, text, "make one, so that the address can be led to it"))
        return found

    @staticmethod
    def rights(vips: Sequence[Vip]) -> Iterable[str]:
        return (
            "compute.forwardingRules.list",
            "compute.forwardingRules.setTarget",
            "compute.regionOperations.get",
            "compute.targetInstances.list",
            "compute.targetInstances.use",
        )


def all_rules(ground: Ground) -> Mapping[str, Any]:
    """Of the region, by name."""
    found = ground.account.all_of(
        "list",
        CLIENT,
        "the list of forwarding rules",
        project=ground.account.project,
        region=ground.region,
    )
    return {each.name: each for each in found}


def named(vip: Vip, rules: Mapping[str, Any], ground: Ground) -> list[Any]:
    """Those of an address; PlaceWrong names what is not there."""
    names = [last(each) for each in vip.settings[SETTING]]
    for name in names:
        if name not in rules:
            text = f"not in region {ground.region} of project {ground.account.project}"
            raise PlaceWrong(f"forwarding rule {name}", text, "correct the name, `region` or `project`")
    return [rules[name] for name in names]
