"""Farms in hafarm.yaml: what is right becomes values, what cannot be is told with its place."""

from __future__ import annotations

import pytest

from orchestrator.config.load import load_text
from orchestrator.model.config import FarmVipConfig, PortsConfig
from tests.config.words import refused

RIGHT = """\
cluster: {name: shop, preset: lan}
nodes:
  - {name: paris, addresses: {lan: 198.18.0.11, backup: 198.18.1.11}}
  - {name: lyon, addresses: {lan: 198.18.0.12, backup: 198.18.1.12}}
  - {name: nice, addresses: {lan: 198.18.0.13, backup: 198.18.1.13}}
modules:
  - name: web
    kind: farm
    nodes: [paris, lyon, nice]
    run: {command: "/usr/sbin/nginx -g 'daemon off;'"}
    vip:
      - address: 198.18.0.101/24
        ports: [80, 443, 8000-8010]
      - address: 198.18.0.102/24
        groups:
          - {ports: [53], protocols: [tcp, udp], affinity: source-port}
          - {ports: [25], weights: {paris: 3, nice: 0}, chain: [[paris, lyon], nice]}
    checks: [{tcp: 80}]
"""


def changed(old: str, new: str) -> str:
    assert old in RIGHT, old
    return RIGHT.replace(old, new, 1)


def test_a_farm_becomes_the_models_values_and_needs_no_witness() -> None:
    config = load_text(RIGHT, "hafarm.yaml")
    (farm,) = config.farms
    assert config.mirrors == ()
    assert config.modules == (farm,)
    assert config.witness.kind == "none"
    assert (farm.mode, farm.drain_s, farm.reset_on_loss) == ("directed", 30.0, True)
    all_alike = dict.fromkeys(farm.nodes, 1)
    first, second = farm.vip
    web = PortsConfig(((80, 80), (443, 443), (8000, 8010)), all_alike, (farm.nodes,))
    assert first == FarmVipConfig("198.18.0.101/24", (web,))
    names, mail = second.groups
    assert (names.protocols, names.affinity) == (("tcp", "udp"), "source-port")
    assert mail.weights == {"paris": 3, "lyon": 1, "nice": 0}
    assert mail.chain == (("paris", "lyon"), ("nice",))


def test_the_short_form_of_one_group_is_the_long_one() -> None:
    short = changed("ports: [80, 443, 8000-8010]", "ports: [80]\n        weights: {lyon: 2}")
    long = changed("ports: [80, 443, 8000-8010]", "groups: [{ports: [80], weights: {lyon: 2}}]")
    assert load_text(short, "hafarm.yaml").farms == load_text(long, "hafarm.yaml").farms


MISTAKES = [
    ("all weights zero", ("weights: {paris: 3, nice: 0}", "weights: {paris: 0, lyon: 0, nice: 0}"),
     "17:27: modules.0.vip.1.groups.1.weights: all weights are zero: nobody would serve"),
    ("a weight of nobody", ("paris: 3", "pariss: 3"), "named pariss, did you mean 'paris'?"),
    ("a port in two groups", ("ports: [25]", "ports: [50-60]"), "tcp port 50-60 is in two groups"),
    ("a chain that forgets one", ("[[paris, lyon], nice]", "[[paris], nice]"), "lyon is in no group"),
    ("a chain with one twice", ("[[paris, lyon], nice]", "[[paris, lyon], nice, lyon]"), "is given twice"),
    ("ports and groups", ("        groups:", "        ports: [1]\n        groups:"), "either ports, or"),
    ("neither", ("        ports: [80, 443, 8000-8010]\n", ""), "either ports, or groups of them"),
    ("weights beside groups", ("        groups:", "        weights: {}\n        groups:"), "into the groups"),
    ("no port", ("8000-8010", "8010-8000"), "a port, or a range of them such as 8000-8010"),
    ("another network", ("198.18.0.102/24", "198.18.7.102/24"), "all addresses of a farm lie in one network"),
    ("a network without a node", ("lan: 198.18.0.13", "lan: 198.18.5.13"),
     "12:9: modules.0.vip.0.address: no address of nice lies in 198.18.0.0/24"),
    ("a node's address", ("198.18.0.101/24", "198.18.0.12/24"), "198.18.0.12 is lyon's own address"),
    ("a swap", ("[{tcp: 80}]", "[{tcp: 80, action: swap}]"), "swap is for mirrors"),
    ("a mirror's key", ("    checks:", "    ack: disk\n    checks:"), "modules.0.ack: unknown field;"),
    ("a word nearly right", ("    checks:", "    drian: 5s\n    checks:"), "did you mean 'drain'?"),
    ("no kind", ("    kind: farm\n", ""), "modules.0.kind: is missing"),
    ("one node", ("[paris, lyon, nice]\n    run", "[paris]\n    run"), "modules.0.nodes"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "change", "told"), MISTAKES)
def test_a_mistake_is_told(what: str, change: tuple[str, str], told: str) -> None:
    found = refused(changed(*change))
    assert any(told in line for line in found), found


def test_an_address_belongs_to_one_module() -> None:
    second = RIGHT.split("modules:\n")[1].replace("web", "shop").replace("198.18.0.102", "198.18.0.103")
    found = refused(RIGHT + second)
    assert any("port 80 of 198.18.0.101 is module web's" in line for line in found), found


def test_what_every_node_receives_needs_no_address_of_theirs() -> None:
    text = changed("    checks:", "    mode: invisible\n    checks:").replace(
        "lan: 198.18.0.13", "lan: 198.18.5.13"
    )
    assert load_text(text, "hafarm.yaml").farms[0].mode == "invisible"


def test_a_mirror_needs_a_witness() -> None:
    mirror = "  - {name: orders, kind: mirror, nodes: [paris, lyon], replicate: [/srv/orders]}\n"
    found = refused(RIGHT + mirror)
    assert any("cluster.witness: is missing: the mirror orders needs one" in line for line in found), found
