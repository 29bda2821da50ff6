"""Azure beside its moves: how an address is moved where, and what is refused or found beforehand."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from orchestrator.model.names import NodeName
from orchestrator.providers.azure import metadata, mover
from orchestrator.providers.azure.account import Account
from orchestrator.providers.detect import provider_here
from orchestrator.providers.faults import MetadataSilent, PlaceWrong
from orchestrator.providers.provider import Owner, Sight
from tests.clouds.azure.site import GROUP, SUBSCRIPTION, path
from tests.providers.azure_scenes import AzureScene, LbPool, NicIpConfig, PublicIp, Udr
from tests.providers.azure_worlds import Leave, SceneOf, chosen, made, place, preflight, scene_of, vip_of
from tests.providers.nodes import BOTH, LYON, PARIS, environ
from tests.providers.scenes import STRANGER
from tests.providers.test_aws import asked_for_policy

__all__ = ["scene_of"]
OTHER = "99999999-2222-3333-4444-555555555555"


class Ilb(AzureScene):
    """A load balancer whose probe asks the health ports of paris and lyon."""

    mode, change, look = "ilb-probe", "", "Microsoft.Network/loadBalancers/read"
    own: ClassVar[dict[NodeName, str]] = {PARIS: "10.0.1.11", LYON: "10.0.1.12"}
    subnet_of: ClassVar[dict[str, str]] = {PARIS: "a", LYON: "a", STRANGER: "a"}
    port = 9702

    def address(self) -> str:
        return f"{self.range}.1.120/32"

    def settings(self) -> dict[str, tuple[str, ...]]:
        return {"load_balancer": ("lb",)}

    def give(self, *owners: str) -> None:
        self.write()

    def owners(self) -> set[str]:
        return set()

    def write(self, members: tuple[str, ...] = (PARIS, LYON), rule: bool = True, **probe: Any) -> None:
        own = path("loadBalancers", "lb")
        subnet = {"id": path("virtualNetworks/subnets", "net", "a")}
        front = {
            "privateIPAddress": f"{self.range}.1.120",
            "privateIPAllocationMethod": "Static",
            "subnet": subnet,
        }
        net = {"id": path("virtualNetworks", "net")}
        nodes = [
            {"name": name, "properties": {"ipAddress": self.address_of(name), "virtualNetwork": net}}
            for name in members
        ]
        asks = {"protocol": "Http", "port": self.port, "requestPath": "/m/shop/primary", **probe}
        asks = {name: value for name, value in asks.items() if value is not None}
        leads = {
            "protocol": "All",
            "frontendPort": 0,
            "backendPort": 0,
            "enableFloatingIP": True,
            "frontendIPConfiguration": {"id": f"{own}/frontendIPConfigurations/front"},
            "backendAddressPool": {"id": f"{own}/backendAddressPools/nodes"},
            "probe": {"id": f"{own}/probes/primary"},
        }
        self.azure.put(
            own,
            frontendIPConfigurations=[{"name": "front", "properties": front}],
            backendAddressPools=[{"name": "nodes", "properties": {"loadBalancerBackendAddresses": nodes}}],
            probes=[{"name": "primary", "properties": asks}],
            loadBalancingRules=[{"name": "all", "properties": leads}] if rule else [],
        )


# --- how ------------------------------------------------------------------------------------------


def test_in_one_subnet_an_address_of_it_is_an_ip_configuration(scene_of: SceneOf) -> None:
    scene = scene_of(NicIpConfig)
    choice = chosen(scene, vip_of(scene.vip, mode=""))
    assert (choice.mode, choice.local) == ("nic-ipconfig", True)
    assert "lyon in net/a, paris in net/a" in choice.why


def test_in_several_subnets_it_is_a_route(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    choice = chosen(scene, vip_of(scene.vip, mode=""))
    assert (choice.mode, choice.local) == ("udr", True)
    assert "lyon in net/b, paris in net/a" in choice.why


def test_a_load_balancer_that_is_named_comes_before_everything_that_azure_must_be_asked_for(
    scene_of: SceneOf,
) -> None:
    scene = scene_of(Ilb)
    choice = chosen(scene, vip_of(scene.vip, mode=""), health_port=Ilb.port)
    assert (choice.mode, choice.local) == ("ilb-probe", True)


@pytest.mark.parametrize(("kind", "local"), [(PublicIp, False), (LbPool, True)])
def test_what_the_settings_name_is_used(scene_of: SceneOf, kind: type[AzureScene], local: bool) -> None:
    scene = scene_of(kind)
    choice = chosen(scene, vip_of(scene.vip, mode=""))
    assert (choice.mode, choice.local) == (kind.mode, local)


def test_subnets_are_told_apart_by_identifier_and_not_by_range(scene_of: SceneOf) -> None:
    """Two networks with the same ranges: lyon's namesake in the other one is not lyon."""
    scene = scene_of(NicIpConfig)
    subnet = {"name": "a", "properties": {"addressPrefix": "10.0.1.0/24"}}
    scene.azure.put(
        path("virtualNetworks", "twin"), addressSpace={"addressPrefixes": ["10.0.0.0/16"]}, subnets=[subnet]
    )
    for name, address in (("twin-p", "10.0.1.11"), ("twin-l", "10.0.1.12")):
        own = {
            "privateIPAddress": address,
            "privateIPAllocationMethod": "Static",
            "subnet": {"id": path("virtualNetworks/subnets", "twin", "a")},
        }
        scene.azure.put(path("networkInterfaces", name), ipConfigurations=[{"name": "c0", "properties": own}])
    listed_last = path("networkInterfaces", LYON).lower()
    scene.do(
        lambda: scene.arm.store.resources.update({listed_last: scene.arm.store.resources.pop(listed_last)})
    )
    choice = chosen(scene, vip_of(scene.vip, mode=""))
    assert choice.mode == "nic-ipconfig"
    assert "twin" not in choice.why
    # Without the metadata service nobody knows in which of the two this machine is.
    silence(scene)
    told = {"subscription": (SUBSCRIPTION,), "resource_group": (GROUP,)}
    with pytest.raises(PlaceWrong, match=r"several virtual networks \(net, twin\).*network"):
        chosen(scene, vip_of(scene.vip, mode="", settings=told))
    named = vip_of(scene.vip, mode="", settings={**told, "network": ("net",)})
    assert chosen(scene, named).mode == "nic-ipconfig"


def silence(scene: AzureScene) -> None:
    """The metadata service still gives tokens, and nothing else."""
    scene.azure.metadata[PARIS].face.knobs.turn("broken", "read", status=500)


# --- what is refused beforehand -------------------------------------------------------------------


def test_without_anything_to_move_it_by_the_reason_is_given(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    with pytest.raises(PlaceWrong, match=r"no way leads it from node to node.*paris in net/a"):
        chosen(scene, vip_of(scene.vip, mode="", without=["route_tables"]))


def test_an_address_inside_the_network_is_no_overlay(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    text = r"10\.0\.7\.7: lies in the range 10\.0\.0\.0/16 of virtual network net"
    with pytest.raises(PlaceWrong, match=text):
        chosen(scene, vip_of(scene.vip, address="10.0.7.7"))


def test_a_table_of_a_strange_network_is_refused_and_one_of_a_peer_is_not(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    elsewhere = path("routeTables", "far").replace(SUBSCRIPTION, OTHER)
    far = path("virtualNetworks", "far").replace(SUBSCRIPTION, OTHER)
    scene.azure.put(elsewhere)
    subnet = {"addressPrefix": "10.9.1.0/24", "routeTable": {"id": elsewhere}}
    scene.azure.put(
        far,
        addressSpace={"addressPrefixes": ["10.9.0.0/16"]},
        subnets=[{"name": "x", "properties": subnet}],
    )
    vip = vip_of(scene.vip, settings={"route_tables": ("a", elsewhere)})
    with pytest.raises(PlaceWrong, match=r"route table far: is used in far, and this node is in net, which"):
        chosen(scene, vip)
    net = path("virtualNetworks", "net")
    peering = {"name": "far", "properties": {"remoteVirtualNetwork": {"id": far}}}
    scene.azure.put(net, **scene.network(), virtualNetworkPeerings=[peering])
    try:
        with environ(scene.environment(PARIS)):
            made(scene, vip).claim(vip.address, BOTH, Leave())
            assert made(scene, vip).observe()[vip.address].owner is Owner.MINE  # type: ignore[union-attr]
    finally:
        scene.azure.put(net, **scene.network())


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (("nowhere",), r"route table nowhere: is not in resource group shop of subscription 1111"),
        (("a", "lb/pool"), r"route table lb/pool: this is no name of one; write a name, or /subscriptions/"),
        ((path("loadBalancers", "lb"),), r"this is no identifier of one; as in .*/routeTables/NAME"),
        (("/subscriptions/x/routeTables/y",), r"this is no identifier of one"),
        (
            (path("routeTables", "a").replace("/shop/", "/shed/"),),
            r"the route tables of shed: it is not there",
        ),
        ((path("routeTables", "a").replace(SUBSCRIPTION, "no-such"),), r"SubscriptionNotFound"),
    ],
)
def test_a_route_table_that_is_not_there_is_named(
    scene_of: SceneOf, tables: tuple[str, ...], said: str
) -> None:
    scene = scene_of(Udr)
    with pytest.raises(PlaceWrong, match=said):
        chosen(scene, vip_of(scene.vip, settings={"route_tables": tables}))


def test_names_are_compared_without_regard_to_case(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    tables = ("A", path("routeTables", "b").upper(), path("routeTables", "B"))
    vip = vip_of(scene.vip, settings={"route_tables": tables, "resource_group": ("SHOP",)})
    with environ(scene.environment(PARIS)):
        node = made(scene, vip)
        assert node.claim(vip.address, BOTH, Leave()).changes == 2
        assert node.claim(vip.address, BOTH, Leave()).changes == 0


def test_another_resource_group_has_no_node(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    scene.azure.put(path("routeTables", "x").replace("/shop/", "/empty/"))
    vip = vip_of(scene.vip, settings={"resource_group": ("empty",)})
    with pytest.raises(
        PlaceWrong, match=r"paris: no network interface in resource group empty of .*10.0.1.11"
    ):
        chosen(scene, vip)
    both = vip_of(scene.vip, settings={"resource_group": (GROUP, "empty")})
    assert chosen(scene, both).mode == "udr"


def test_an_ip_configuration_does_not_cross_subnets(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    with pytest.raises(PlaceWrong, match=r"the nodes lie in several \(lyon in b, paris in a\)"):
        chosen(scene, vip_of(scene.vip, mode="nic-ipconfig", address="10.0.1.100"))


def test_an_address_of_another_subnet_is_no_ip_configuration(scene_of: SceneOf) -> None:
    scene = scene_of(NicIpConfig)
    with pytest.raises(PlaceWrong, match=r"10.0.2.100: does not lie in subnet a \(10.0.1.0/24\)"):
        chosen(scene, vip_of(scene.vip, address="10.0.2.100"))


def test_another_public_address_is_refused(scene_of: SceneOf) -> None:
    scene = scene_of(PublicIp)
    with pytest.raises(
        PlaceWrong, match=r"public IP address shop: is 198.19.*, and the virtual IP 198.18.3.3"
    ):
        chosen(scene, vip_of(scene.vip, address="198.18.3.3"))


def test_an_interface_that_has_another_public_address_cannot_take_one(scene_of: SceneOf) -> None:
    scene = scene_of(PublicIp)
    scene.azure.put(path("publicIPAddresses", "admin"), publicIPAllocationMethod="Static")
    scene.write_nic(PARIS, "10.0.1.11", publicIPAddress={"id": path("publicIPAddresses", "admin")})
    with pytest.raises(PlaceWrong, match=r"interface paris: its configuration has another .* \(admin\)"):
        chosen(scene, vip_of(scene.vip))


def test_a_pool_of_interfaces_is_refused(scene_of: SceneOf) -> None:
    scene = scene_of(LbPool)
    pool = {"id": path("loadBalancers/backendAddressPools", "lb0", "nodes")}
    scene.write_nic(PARIS, "10.0.1.11", loadBalancerBackendAddressPools=[pool])
    try:
        with pytest.raises(PlaceWrong, match=r"backend pool lb0/nodes: its members are network interfaces"):
            chosen(scene, vip_of(scene.vip))
    finally:
        scene.write_nic(PARIS, "10.0.1.11")


def test_a_load_balancer_without_the_address_is_refused(scene_of: SceneOf) -> None:
    scene = scene_of(Ilb)
    with pytest.raises(PlaceWrong, match=r"has no frontend with the address 10.0.1.9, but front 10.0.1.120"):
        chosen(scene, vip_of(scene.vip, address="10.0.1.9"), health_port=Ilb.port)
    named = vip_of(scene.vip, address="198.18.3.3", settings={"frontend": ("front",)})
    assert chosen(scene, named, health_port=Ilb.port).mode == "ilb-probe"


def test_an_unknown_mode_of_a_running_worker_is_told(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    with pytest.raises(PlaceWrong, match="Azure has no mode teleport; known: ilb-probe, udr"):
        chosen(scene, vip_of(scene.vip, mode="teleport"))


# --- what is found beforehand ---------------------------------------------------------------------


def test_an_interface_that_does_not_forward_is_found_and_mended_by_order(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    scene.write_nic(PARIS, "10.0.1.11", forwards=False)
    (found,) = preflight(scene)
    assert (found.subject, found.problem) == (
        "interface paris",
        "its IP forwarding is off: it drops the address",
    )
    assert "provider test azure` switches it on" in found.remedy
    assert scene.knobs.changes(PARIS) == []
    assert preflight(scene, repair=True) == []
    assert scene.found("networkInterfaces", PARIS)["properties"]["enableIPForwarding"] is True
    assert preflight(scene) == []


def test_a_claim_lets_the_interface_forward_what_it_is_to_take(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    scene.write_nic(PARIS, "10.0.1.11", forwards=False)
    with environ(scene.environment(PARIS)):
        made(scene, vip_of(scene.vip)).claim("198.18.50.1", BOTH, Leave())
    assert scene.knobs.changes(PARIS)[0].action == "Microsoft.Network/networkInterfaces/write"
    assert scene.owners() == {PARIS}
    assert scene.found("networkInterfaces", PARIS)["properties"]["enableIPForwarding"] is True


def test_a_node_that_is_in_no_named_group_is_found(scene_of: SceneOf) -> None:
    for kind in (Udr, NicIpConfig):
        scene = scene_of(kind)
        addresses = {**scene.own, LYON: "10.0.2.99"}
        with environ(scene.environment(PARIS)):
            provider = mover.Azure(place(vip_of(scene.vip), own=addresses))
            (found,) = provider.preflight(False, Leave())
        assert (found.subject, "in resource group shop has any of its addresses" in found.problem) == (
            LYON,
            True,
        )


def test_a_table_that_no_subnet_uses_is_found(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    scene.azure.put(path("routeTables", "idle"))
    (found,) = preflight(scene, settings={"route_tables": ("a", "idle")})
    assert (found.subject, found.problem) == ("route table idle", "no subnet uses it: it leads nobody")


def test_a_foreign_owner_is_found(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    scene.give(STRANGER)
    (found,) = preflight(scene)
    assert "10.0.1.99, no node of this cluster" in found.problem
    assert "take it away there" in found.remedy


@pytest.mark.parametrize(
    ("probe", "members", "said"),
    [
        ({"port": 80}, BOTH, "it asks port 80"),
        ({"requestPath": "/"}, BOTH, "it asks Http /, which is not this module's"),
        ({"protocol": "Tcp", "requestPath": None}, BOTH, "it asks Tcp without a path, which is not"),
        ({"noHealthyBackendsBehavior": "AllProbedUp"}, BOTH, "where no node answers well, it sends to all"),
        ({}, {PARIS}, "lyon is not in it, and gets nothing when it serves"),
        ({}, {PARIS, LYON, STRANGER}, "10.0.1.99 is no node of this cluster"),
    ],
)
def test_a_load_balancer_that_asks_or_sends_elsewhere_is_found(
    scene_of: SceneOf, probe: dict[str, Any], members: set[str], said: str
) -> None:
    scene = scene_of(Ilb)
    assert preflight(scene, health_port=Ilb.port) == []
    scene.write(tuple(sorted(members)), **probe)
    (found,) = preflight(scene, health_port=Ilb.port)
    assert said in found.problem


def test_a_load_balancer_without_a_rule_is_found(scene_of: SceneOf) -> None:
    scene = scene_of(Ilb)
    scene.write(rule=False)
    (found,) = preflight(scene, health_port=Ilb.port)
    assert "no rule of it leads 10.0.1.120 anywhere" in found.problem


# --- who serves, by the health ports --------------------------------------------------------------


@contextmanager
def health_port(host: str, port: int, page: str) -> Iterator[int]:
    """An agent's, which says yes on this page alone."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == page else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer((host, port), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class IlbHere(Ilb):
    """Its nodes have addresses of this machine, where a test can answer the probes."""

    own: ClassVar[dict[NodeName, str]] = {PARIS: "127.0.1.11", LYON: "127.0.1.12"}
    range = "127.0"


def test_a_move_asks_nothing_and_the_health_ports_say_who_serves(scene_of: SceneOf) -> None:
    scene = scene_of(IlbHere)
    page = "/m/shop/primary"
    with health_port("127.0.1.11", 0, page) as port, environ(scene.environment(PARIS)):
        node = made(scene, vip_of(scene.vip), health_port=port)
        node.choices()  # the agent asks when it starts
        before = len(scene.knobs.done)
        assert node.claim("127.0.1.120", BOTH, Leave()).changes == 0
        assert seen(node).owner is Owner.MINE
        with health_port("127.0.1.12", port, page):
            assert (seen(node).owner, seen(node).nodes) == (Owner.AMBIGUOUS, {PARIS, LYON})
        with health_port("127.0.1.12", port, "/m/other/primary"):
            assert seen(node).owner is Owner.MINE
        assert len(scene.knobs.done) == before, "Azure was asked for nothing"
    with environ(scene.environment(PARIS)):
        assert seen(node).owner is Owner.NOBODY


def seen(node: mover.Azure) -> Sight:
    (found,) = node.observe().values()
    assert isinstance(found, Sight)
    return found


# --- the metadata service -------------------------------------------------------------------------


def test_a_silent_metadata_service_is_told_where_it_is_needed(scene_of: SceneOf) -> None:
    scene = scene_of(Udr)
    silence(scene)
    with pytest.raises(MetadataSilent, match=r"the metadata service .* does not answer: HTTP 500"):
        chosen(scene, vip_of(scene.vip))
    # What hafarm.yaml says need not be asked for.
    told = {"subscription": (SUBSCRIPTION,), "resource_group": (GROUP,)}
    assert chosen(scene, vip_of(scene.vip, settings=told)).mode == "udr"


def test_the_metadata_service_is_not_asked_through_a_proxy(
    scene_of: SceneOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_of(Udr)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with environ(scene.environment(PARIS)):
        assert metadata.instance()["compute"]["resourceGroupName"] == GROUP


def test_what_answers_there_and_is_not_azure_is_no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    with health_port("127.0.0.1", 0, f"/metadata/instance?api-version={metadata.VERSION}") as port:
        monkeypatch.setenv(metadata.ENDPOINT, f"http://127.0.0.1:{port}")
        with pytest.raises(MetadataSilent):
            metadata.instance()
    with pytest.raises(MetadataSilent, match="refused"):
        metadata.instance()


def test_the_hardware_says_that_it_is_azure(tmp_path: Path) -> None:
    (tmp_path / "sys_vendor").write_text("Microsoft Corporation\n")
    assert provider_here({}, tmp_path)[0] == "onprem"
    (tmp_path / "chassis_asset_tag").write_text("7783-7084-3265-9085-8269-3286-77\n")
    assert provider_here({}, tmp_path)[0] == "azure"


def test_azures_other_clouds_have_other_addresses() -> None:
    assert Account().endpoint == "https://management.azure.com/"
    assert Account("", "AzureUSGovernmentCloud").endpoint == "https://management.usgovcloudapi.net/"
    assert Account("https://private.test", "AzureChinaCloud").endpoint == "https://private.test"


# --- what is installed ----------------------------------------------------------------------------


def test_an_extra_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "azure").mkdir()
    (tmp_path / "azure" / "__init__.py").write_text("")
    answer = asked_for_policy("azure", {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})
    assert answer["error"]["code"] == "HF7004"
    assert "pip install 'hafarm[azure]'" in answer["error"]["text"]


def test_modes_of_the_file_and_of_the_provider_are_the_same() -> None:
    from orchestrator.config.clouds import MODES

    assert set(MODES["azure"]) == set(mover.MODES)
    for name, mode in MODES["azure"].items():
        assert mode.needed == set(mover.MODES[name].settings)
        assert mode.probed == mover.MODES[name].by_probe
