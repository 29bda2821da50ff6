"""`overlay-route`: an address outside of the VPC's range, led to a node by one route in each of N tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.providers.aws.ground import Ground
from orchestrator.providers.aws.mode import POLICY_HINT, AwsMode, arn, permitted, statement
from orchestrator.providers.faults import PlaceWrong, ProviderFault, ProviderRefused
from orchestrator.providers.modes import lies_in
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Finding, Sight
from orchestrator.providers.sending import side_by_side

Table = Mapping[str, Any]


class Routes(AwsMode):
    """A route is replaced blindly by AWS, so the lease is asked before each request, and looks follow."""

    name = "overlay-route"
    settings = ("route_tables",)

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._seen: dict[str, Mapping[str, Table]] = {}
        """By address, the tables as they were looked at last: a claim looks directly before it moves."""

    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """One request for the tables of all addresses that one role may see."""
        seen: dict[str, Sight | Exception] = {}
        for role in sorted({vip.setting("role") for vip in vips}):
            of_role = [vip for vip in vips if vip.setting("role") == role]
            try:
                tables = self._tables(
                    role, [table for vip in of_role for table in vip.settings["route_tables"]]
                )
            except PlaceWrong as fault:
                # One table that is not there must not hide the others.
                seen |= self.look_one_by_one(of_role) if len(of_role) > 1 else {of_role[0].address: fault}
            except ProviderFault as fault:
                seen |= dict.fromkeys([vip.address for vip in of_role], fault)
            else:
                seen |= {vip.address: self._sight(vip, tables) for vip in of_role}
                self._seen |= dict.fromkeys([vip.address for vip in of_role], tables)
        return seen

    def look_one_by_one(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        return {vip.address: self.look([vip])[vip.address] for vip in vips}

    def _tables(self, role: str, names: Sequence[str]) -> Mapping[str, Table]:
        ec2 = self._ground.account.client("ec2", role)
        names = sorted(set(names))
        answer = self._call(lambda: ec2.describe_route_tables(RouteTableIds=names), "DescribeRouteTables")
        return {table["RouteTableId"]: table for table in answer["RouteTables"]}

    def _sight(self, vip: Vip, tables: Mapping[str, Table]) -> Sight:
        return self._ground.sight(
            {
                name: self._living(_owners(tables[name], vip), tables[name], vip)
                for name in vip.settings["route_tables"]
                if name in tables
            }
        )

    def _living(self, owners: frozenset[str], table: Table, vip: Vip) -> frozenset[str]:
        """A route into the void may be taken over: what it led to was terminated."""
        route = _route(table, vip)
        if route is None or route.get("State") != "blackhole":
            return owners
        return frozenset(eni for eni in owners if self._ground.node_of(eni) is not None)

    def check(self, vip: Vip) -> None:
        """Its tables are in this VPC, and it is outside of the VPC's range, which AWS keeps."""
        me = self._ground.me
        for name, table in self._tables(vip.setting("role"), vip.settings["route_tables"]).items():
            if table["VpcId"] != me.vpc:
                text = f"belongs to {table['VpcId']}, and this node to {me.vpc}"
                raise PlaceWrong(f"route table {name}", text, "name tables of the nodes' own VPC")
            for route in table["Routes"]:
                inside = route.get("DestinationCidrBlock") or route.get("DestinationIpv6CidrBlock") or ""
                if route.get("GatewayId") == "local" and inside and lies_in(vip.address, inside):
                    text = f"lies in the VPC's own range {inside}, where no route leads elsewhere"
                    raise PlaceWrong(vip.address, text, "choose an address outside of it")

    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        """All tables side by side; one that refuses does not keep the others."""
        self._let_pass()
        tables = self._seen[vip.address]
        mine = frozenset({self._ground.me.eni})
        ec2 = self._ground.account.client("ec2", vip.setting("role"))

        def lead(name: str, owners: bool) -> Callable[[], None]:
            words = {"RouteTableId": name, "NetworkInterfaceId": self._ground.me.eni, **_destination(vip)}
            if owners:
                return lambda: self._call(lambda: ec2.replace_route(**words), f"ReplaceRoute of {name}")
            return lambda: self._call(lambda: ec2.create_route(**words), f"CreateRoute in {name}")

        return side_by_side(
            {
                name: lead(name, _route(table, vip) is not None)
                for name, table in tables.items()
                if name in vip.settings["route_tables"] and _owners(table, vip) != mine
            }
        )

    def _let_pass(self) -> None:
        """An interface drops what is not for its own addresses, unless it is told not to."""
        me = self._ground.me
        if not me.checked:
            return
        ec2 = self._ground.account.client("ec2")
        words = {"NetworkInterfaceId": me.eni, "SourceDestCheck": {"Value": False}}
        try:
            self._call(
                lambda: ec2.modify_network_interface_attribute(**words), "ModifyNetworkInterfaceAttribute"
            )
        except ProviderRefused as fault:
            remedy = "switch it off, or give this node the right to do so"
            raise PlaceWrong(me.eni, f"its source/destination check is on ({fault.why})", remedy) from fault
        self._ground.learn()

    def trials(self, vip: Vip) -> Iterable[tuple[str, Callable[[], Any]]]:
        ec2 = self._ground.account.client("ec2", vip.setting("role"))
        me = self._ground.me
        for name in vip.settings["route_tables"]:
            words = {"RouteTableId": name, "NetworkInterfaceId": me.eni, "DryRun": True, **_destination(vip)}
            yield f"CreateRoute in {name}", lambda words=words: ec2.create_route(**words)  # type: ignore[misc]
            yield f"ReplaceRoute of {name}", lambda words=words: ec2.replace_route(**words)  # type: ignore[misc]

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        """The source/destination check, which is switched off with `repair`."""
        self._ground.learn()
        me = self._ground.me
        found = []
        if me.checked and repair:
            self._let_pass()
        elif me.checked:
            ec2 = self._ground.account.client("ec2")
            words = {"NetworkInterfaceId": me.eni, "SourceDestCheck": {"Value": False}, "DryRun": True}
            lacking = permitted(lambda: ec2.modify_network_interface_attribute(**words))
            remedy = (
                f"{POLICY_HINT}, or switch it off"
                if lacking
                else "`hafarm provider test aws` switches it off"
            )
            found.append(Finding(me.eni, "its source/destination check is on: it drops the address", remedy))
        return found

    @staticmethod
    def rights(vips: Sequence[Vip], region: str) -> list[dict[str, Any]]:
        tables = [arn(region, f"route-table/{name}") for vip in vips for name in vip.settings["route_tables"]]
        return [
            statement("LookAtRoutes", ["ec2:DescribeRouteTables"]),
            statement("LeadRoutes", ["ec2:CreateRoute", "ec2:ReplaceRoute"], sorted(set(tables))),
        ]

    @staticmethod
    def own_rights(region: str) -> list[dict[str, Any]]:
        """Of the node's own role, also where another is taken on for the tables."""
        nics = [arn(region, "network-interface/*")]
        return [statement("LetPass", ["ec2:ModifyNetworkInterfaceAttribute"], nics)]


def _destination(vip: Vip) -> dict[str, str]:
    if ":" in vip.address:
        return {"DestinationIpv6CidrBlock": f"{vip.address}/128"}
    return {"DestinationCidrBlock": f"{vip.address}/32"}


def _route(table: Table, vip: Vip) -> Mapping[str, Any] | None:
    (key, wanted), *_ = _destination(vip).items()
    return next((route for route in table["Routes"] if route.get(key) == wanted), None)


def _owners(table: Table, vip: Vip) -> frozenset[str]:
    """The interface that a table leads the address to; what is gone for good owns nothing."""
    route = _route(table, vip)
    if route is None:
        return frozenset()
    target = next(
        (
            str(value)
            for key, value in sorted(route.items())
            if key.endswith("Id") and key != "InstanceOwnerId" and value
        ),
        "",
    )
    eni = str(route.get("NetworkInterfaceId") or "")
    if route.get("State") == "blackhole" and not eni:
        return frozenset()
    return frozenset({eni or target}) if eni or target else frozenset()
