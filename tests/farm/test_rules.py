"""The rules as values: what is in them, and that a change writes only what differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.farm.buckets import BUCKETS
from orchestrator.farm.plane import Affinity, Member, Mode, Plane, Protocol, Service, device_of
from orchestrator.farm.rules import rules, table_of
from orchestrator.farm.ruleset import NOTHING, Chain, Elements, Ruleset, Table, change, replacement
from orchestrator.model.names import ModuleName, NodeName
from tests.farm.rig import shared

N1, N2, N3 = (
    Member(NodeName(f"n{number}"), f"02:00:00:00:00:0{number}", f"198.18.0.{number}", f"2001:2::{number}")
    for number in (1, 2, 3)
)
V4, V6 = "198.18.0.100", "2001:2::100"
OWNERS: Any = shared("n1", "n2", "n3", "n3")


def service(**words: Any) -> Service:
    told = {"name": "web", "address": V4, "protocol": Protocol.TCP, "ports": ((80, 80), (8000, 8100))}
    return Service(**{**told, "affinity": Affinity.SOURCE_PORT, "owners": OWNERS, **words})


def plane(*services: Service, **words: Any) -> Plane:
    told = {"farm": ModuleName("shop-web"), "me": N1, "peers": (N2, N3), "mode": Mode.DIRECTED, "seed": 7}
    told |= {"interface": "eth0", "addresses": (V4,), "answers": frozenset()}
    return Plane(**{**told, "services": services or (service(),), **words})  # type: ignore[arg-type]


def netdev(found: Ruleset) -> Table:
    return found["netdev", "hafarm_farm_shop_web"]


def test_own_buckets_are_absent_so_that_their_packets_stay_here() -> None:
    owners = netdev(rules(plane())).sets["owner4_web"].elements
    assert set(owners.values()) == {N2.v4, N3.v4}
    assert owners.keys() == {str(bucket) for bucket, owner in enumerate(OWNERS) if owner != "n1"}


def test_nobodys_buckets_and_those_of_a_node_without_such_an_address_stay_with_who_answers() -> None:
    owners = tuple(None if bucket % 2 else owner for bucket, owner in enumerate(OWNERS))
    lame = plane(service(owners=owners), peers=(N2, replace(N3, v4="")))
    assert set(netdev(rules(lame)).sets["owner4_web"].elements.values()) <= {N2.v4}


def test_the_rules_are_the_same_on_the_director_and_elsewhere_but_for_who_answers() -> None:
    elsewhere, director = rules(plane()), rules(plane(answers=frozenset({V4})))
    written = change(elsewhere, director).splitlines()
    assert written == [f"add element arp hafarm_farm_shop_web answered {{ {V4} }}"]


def test_a_change_of_shares_writes_the_buckets_that_moved_and_nothing_else() -> None:
    moved = tuple("n3" if bucket == 5 else owner for bucket, owner in enumerate(OWNERS))
    written = change(rules(plane()), rules(plane(service(owners=moved)))).splitlines()
    assert written == [
        f"{verb} element {family} hafarm_farm_shop_web {name} {{ {what} }}"
        for family, name in (("netdev", "owner4_web"), ("ip", "owner_web"))
        for verb, what in (("delete", "5"), ("add", f"5 : {N3.v4}"))
    ]


def test_what_is_equal_is_not_written_at_all() -> None:
    assert change(rules(plane()), rules(plane())) == ""


def test_another_service_leaves_the_counts_of_the_first_alone() -> None:
    other = service(name="dns", protocol=Protocol.UDP, ports=((53, 53),), affinity=Affinity.SOURCE)
    come = change(rules(plane()), rules(plane(service(), other)))
    gone = change(rules(plane(service(), other)), rules(plane()))
    for written, verb in ((come, "add"), (gone, "delete")):
        assert f"{verb} counter ip hafarm_farm_shop_web taken_dns" in written
        assert "counter ip hafarm_farm_shop_web taken_web" not in written
        assert "table" not in written.replace("hafarm_farm", "")


def test_port_groups_of_one_address_have_maps_of_their_own() -> None:
    mine, theirs = ("n1",) * BUCKETS, ("n2",) * BUCKETS
    found = rules(plane(service(owners=mine), service(name="api", ports=((443, 443),), owners=theirs)))
    assert netdev(found).sets["owner4_web"].elements == {}
    assert len(netdev(found).sets["owner4_api"].elements) == BUCKETS


def test_a_packet_is_never_given_a_mark() -> None:
    for mode in Mode:
        both = plane(
            service(), service(name="six", address=V6), addresses=(V4, V6), mode=mode, answers=frozenset({V6})
        )
        assert "mark" not in replacement(rules(both))


def test_udp_has_no_second_chance() -> None:
    found = rules(plane(service(protocol=Protocol.UDP, previous={3: NodeName("n2")})))
    assert "previous_web" not in found["ip", "hafarm_farm_shop_web"].sets


def test_a_second_chance_is_at_the_address_of_who_had_the_bucket() -> None:
    found = rules(plane(service(previous={3: NodeName("n2"), 4: NodeName("gone")})))
    assert found["ip", "hafarm_farm_shop_web"].sets["previous_web"].elements == {"3": N2.v4}


def test_an_invisible_node_keeps_what_it_has_and_what_it_gave_away() -> None:
    lost = frozenset({1, 0})
    found = rules(plane(service(lost=lost), mode=Mode.INVISIBLE))
    mine = {int(bucket) for bucket in netdev(found).sets["mine_web"].elements}
    assert mine == {bucket for bucket, owner in enumerate(OWNERS) if owner == "n1"} | {1}
    assert found["ip", "hafarm_farm_shop_web"].sets["lost_web"].elements == {"1": ""}, "0 is its own again"


def test_only_the_versions_of_ip_that_are_used_have_tables() -> None:
    only6 = plane(service(address=V6), addresses=(V6,))
    assert [family for family, _ in rules(only6)] == ["netdev", "ip6"]
    assert [family for family, _ in rules(plane())] == ["netdev", "ip", "arp"]


def test_two_farms_share_neither_table_nor_device() -> None:
    names = [ModuleName(name) for name in ("a-b", "a", "ab", "a-b-c")]
    assert len({table_of(name) for name in names}) == len({device_of(name) for name in names}) == 4
    assert all(len(device_of(name)) <= 15 for name in names)


def test_the_virtual_hardware_address_is_the_same_on_all_nodes_and_another_for_each_farm() -> None:
    here, there = plane(mode=Mode.INVISIBLE), plane(mode=Mode.INVISIBLE, me=N2, peers=(N1, N3))
    assert here.virtual_mac == there.virtual_mac
    assert here.virtual_mac != replace(here, farm=ModuleName("other")).virtual_mac
    assert int(here.virtual_mac[:2], 16) & 3 == 2, "no group, and no maker's"


def test_what_is_leased_is_what_this_node_answers_for() -> None:
    assert plane().leased == ()
    assert plane(answers=frozenset({V4})).leased == (V4,)
    assert plane(mode=Mode.SPREAD).leased == plane(mode=Mode.INVISIBLE).leased == (V4,)
    assert [plane(mode=mode).shares_lease for mode in Mode] == [True, True, False]


@pytest.mark.parametrize(
    "words",
    [
        {"owners": OWNERS[1:]},
        {"ports": ()},
        {"ports": ((0, 80),)},
        {"ports": ((90, 80),)},
        {"name": "web tcp"},
    ],
)
def test_a_service_that_cannot_be_is_refused(words: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        service(**words)


def test_whatever_was_is_replaced_in_one_transaction() -> None:
    name = ("ip", "t")
    table = Table({"a": Chain(("accept",))})
    assert replacement({name: table}).splitlines() == [
        "add table ip t",
        "delete table ip t",
        "add table ip t",
        "add chain ip t a",
        "add rule ip t a accept",
    ]


def test_rules_go_before_what_they_name_and_come_after_it() -> None:
    name = ("ip", "t")
    jumps = Table(
        {"a": Chain(("jump b",)), "b": Chain(("ip saddr @s counter name c",))},
        {"s": Elements("type ipv4_addr", {"198.18.0.1": ""})},
        ("c",),
    )
    plain = Table({"a": Chain(("accept",))})
    assert change({name: plain}, {name: jumps}).splitlines() == [
        "flush chain ip t a",
        "add counter ip t c",
        "add set ip t s { type ipv4_addr; }",
        "add element ip t s { 198.18.0.1 }",
        "add chain ip t b",
        "add rule ip t a jump b",
        "add rule ip t b ip saddr @s counter name c",
    ]
    assert change({name: jumps}, {name: plain}).splitlines() == [
        "flush chain ip t b",
        "flush chain ip t a",
        "delete chain ip t b",
        "delete set ip t s",
        "delete counter ip t c",
        "add rule ip t a accept",
    ]


def test_a_chain_whose_hook_moved_is_made_anew() -> None:
    name = ("netdev", "t")
    before, after = (
        {name: Table({"in": Chain(("accept",), f"type filter hook ingress device {device} priority 0;")})}
        for device in ("a", "b")
    )
    assert change(before, after).splitlines() == [
        "flush chain netdev t in",
        "delete chain netdev t in",
        "add chain netdev t in { type filter hook ingress device b priority 0; }",
        "add rule netdev t in accept",
    ]
    assert change(before, NOTHING) == "delete table netdev t"
