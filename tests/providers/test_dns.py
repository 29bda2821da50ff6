"""A name in Route 53: one batch that names the old record exactly, and what is no plain record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from moto.backends import get_backend

from orchestrator.model.names import NodeName
from orchestrator.providers.aws.mover import Aws, policy
from orchestrator.providers.faults import ForeignOwner, PlaceWrong, ProviderUnreachable
from orchestrator.providers.mover import Choice, Vip
from orchestrator.providers.names import in_zone, value_of
from orchestrator.providers.provider import Owner
from orchestrator.providers.sending import under
from tests.providers.aws_scenes import Dns
from tests.providers.nodes import BOTH, LYON, OWN, PARIS, environ
from tests.providers.test_aws import Leave, place, vip_of
from tests.support.clouds.aws import simulated


@pytest.fixture(scope="module")
def built() -> Iterator[Dns]:
    with simulated() as aws:
        yield Dns(aws)


@pytest.fixture
def scene(built: Dns) -> Iterator[Dns]:
    built.reset()
    with environ(built.environment(PARIS)):
        yield built


def vip_with(scene: Dns, **settings: Any) -> Vip:
    vip = vip_of(scene.vip)
    changed = {name: value if isinstance(value, tuple) else (value,) for name, value in settings.items()}
    return vip_of(scene.vip, settings={**vip.settings, **changed})


def of(node: NodeName, *vips: Vip) -> Aws:
    told = place(*vips)
    return Aws(type(told)(told.cluster, node, told.addresses, told.vips))


def choice(scene: Dns, vip: Vip) -> Choice:
    found = of(PARIS, vip).choices()[vip.address]
    if isinstance(found, Exception):
        raise found
    return found


def batch(scene: Dns) -> str:
    (sent,) = scene.knobs.changes()
    return str(sent.words["body"])


def test_one_batch_names_the_old_record_exactly_and_makes_the_new_one(scene: Dns) -> None:
    scene.put(77, *[OWN[LYON]])
    scene.knobs.log.clear()
    of(PARIS, vip_of(scene.vip)).claim("198.18.70.1", BOTH, Leave())
    sent = batch(scene)
    delete, create = sent.partition("CREATE")[::2]
    assert ("DELETE" in delete, "<TTL>77</TTL>" in delete, OWN[LYON] in delete) == (True, True, True)
    assert ("<TTL>5</TTL>" in create, OWN[PARIS] in create) == (True, True)
    assert scene.owners() == {PARIS}


def test_where_there_is_none_it_is_made(scene: Dns) -> None:
    of(PARIS, vip_of(scene.vip)).claim("198.18.70.1", BOTH, Leave())
    assert "DELETE" not in batch(scene)
    assert scene.owners() == {PARIS}


@pytest.mark.parametrize(
    ("ttl", "values"),
    [(5, ["10.0.1.99"]), (6, [OWN[LYON]]), (5, [OWN[LYON], "10.0.1.99"]), (5, [])],
    ids=["another value", "another ttl", "one value more", "it is gone"],
)
def test_what_somebody_changed_since_the_look_is_refused_as_a_whole(
    scene: Dns, ttl: int, values: list[str]
) -> None:
    scene.give(LYON)
    node = of(PARIS, vip_of(scene.vip))
    mode = node._made["dns"]
    vip = vip_of(scene.vip)
    assert mode.look([vip])[vip.address].nodes == {LYON}  # type: ignore[union-attr]
    scene.put(ttl, *values)
    before = scene._found()
    with under(Leave()), pytest.raises(ProviderUnreachable, match="InvalidChangeBatch"):
        mode.move(vip, Leave())
    assert scene._found() == before


def test_a_look_that_saw_a_stranger_since_is_heeded(scene: Dns) -> None:
    scene.give(LYON)
    vip = vip_of(scene.vip)
    mode = of(PARIS, vip)._made["dns"]
    scene.give("stranger")
    mode.look([vip])
    with pytest.raises(ForeignOwner, match=r"leads to 10\.0\.1\.99"):
        mode.move(vip, Leave())


def test_the_ttl_is_told_with_who_moves_it(scene: Dns) -> None:
    told = choice(scene, vip_of(scene.vip))
    assert (told.mode, told.local) == ("dns", False)
    assert "clients follow within 5 s, the record's TTL" in told.why
    assert "within 10 s" in choice(scene, vip_of(scene.vip, settings=_without_ttl(scene))).why
    assert choice(scene, vip_of(scene.vip, mode="")).mode == "dns", "the settings name a record"


def test_a_ttl_that_is_another_is_seen_and_found_beforehand(scene: Dns) -> None:
    scene.put(300, OWN[PARIS])
    node = of(PARIS, vip_of(scene.vip))
    seen = node.observe()["198.18.70.1"]
    assert not isinstance(seen, Exception)
    assert seen.detail == "shop.example.com (TTL 300 s) leads to paris"
    (found,) = node.preflight(False, Leave())
    assert (found.subject, found.problem) == (
        "shop.example.com",
        "its TTL is 300 s, and 5 s in hafarm.yaml",
    )
    scene.put(5, OWN[PARIS])
    assert node.preflight(False, Leave()) == []


def _without_ttl(scene: Dns) -> dict[str, tuple[str, ...]]:
    return {name: value for name, value in scene.vip.settings.items() if name != "ttl"}


def test_what_does_not_fit_is_refused_beforehand(scene: Dns) -> None:
    for settings, said in (
        ({"zone": "Z0000000000000"}, "not in region|No hosted zone"),
        ({"record": "shop.example.org"}, r"is not in zone .*, which is example\.com\."),
        ({"ttl": "soon"}, "ttl soon is no number of seconds"),
        ({"values": ("paris=203.0.113.1", "lyon=203.0.113.1")}, "two nodes have one value"),
        ({"values": ("pairs=203.0.113.1",)}, "pairs=203.0.113.1 is no NODE=ADDRESS"),
        ({"values": ("paris=2001:db8::1",)}, "for a record of type A"),
    ):
        with pytest.raises(PlaceWrong, match=said):
            choice(scene, vip_with(scene, **settings))
    with pytest.raises(PlaceWrong, match="no address for a record of type AAAA"):
        choice(scene, vip_of(scene.vip, address="2001:db8::1"))


def test_a_record_that_is_chosen_by_more_than_its_name_is_left_alone(scene: Dns) -> None:
    scene.give(LYON)
    zone = get_backend("route53")["123456789012"]["aws"].get_hosted_zone(scene.zone)
    (found,) = [each for each in zone.rrsets if each.name == scene.record]
    found.set_identifier, found.weight = "blue", 10
    try:
        with pytest.raises(PlaceWrong, match="is no plain record: it has SetIdentifier"):
            choice(scene, vip_of(scene.vip))
    finally:
        found.set_identifier = found.weight = None


def test_public_values_lead_where_own_addresses_cannot(scene: Dns) -> None:
    vip = vip_with(scene, values=("paris=203.0.113.1", "lyon=203.0.113.2"))
    of(PARIS, vip).claim(vip.address, BOTH, Leave())
    found = scene._found()
    assert found is not None
    assert [each["Value"] for each in found["ResourceRecords"]] == ["203.0.113.1"]
    seen = of(LYON, vip).observe()[vip.address]
    assert not isinstance(seen, Exception)
    assert (seen.owner, seen.nodes) == (Owner.NODE, {PARIS})


def test_the_right_to_change_is_that_of_one_name(scene: Dns) -> None:
    (moves,) = [
        each
        for each in policy(place(vip_of(scene.vip)))["this node's role"]["Statement"]
        if each["Sid"] == "MoveRecords"
    ]
    assert moves["Resource"] == [f"arn:aws:route53:::hostedzone/{scene.zone}"]
    (condition,) = moves["Condition"]["ForAllValues:StringEquals"].values()
    assert condition == ["shop.example.com"]


def test_names_and_zones_are_compared_as_dns_does() -> None:
    assert in_zone("shop.example.com", "Example.com.")
    assert in_zone("example.com", "example.com")
    assert not in_zone("shopexample.com", "example.com")


def test_an_ipv6_address_is_one_however_it_is_written(scene: Dns) -> None:
    vip = vip_of(scene.vip, address="2001:db8::1", settings={"values": ("paris=2001:db8:0:0::5",)})
    told = place(vip)
    assert value_of(vip, told, PARIS) == "2001:db8:0:0::5"
    node = of(PARIS, vip_of(scene.vip))
    mode: Any = node._made["dns"]
    assert mode._node_of(vip, "2001:db8::5") == PARIS
