"""Virtual IPs that a cloud moves, in hafarm.yaml."""

from __future__ import annotations

import pytest

from orchestrator.config.load import load_text
from tests.config.words import changed, refused

VIP = "vip: [{address: 198.18.0.100/24}]"
ROUTES = "provider: aws, mode: overlay-route, settings: {route_tables: [rtb-1, rtb-2]}"


def with_vip(text: str, health: bool = False) -> str:
    made = changed(VIP, f"vip: [{{{text}}}]")
    return made.replace("preset: lan,", "preset: lan, ports: {health: 9702},") if health else made


def test_settings_reach_the_model_as_lists_of_text() -> None:
    text = f"address: 198.19.0.1/32, {ROUTES.replace('{route', '{region: eu-west-1, route')}"
    (vip,) = load_text(with_vip(text), "hafarm.yaml").mirrors[0].vip
    assert (vip.provider, vip.mode) == ("aws", "overlay-route")
    assert vip.settings == {"region": ("eu-west-1",), "route_tables": ("rtb-1", "rtb-2")}


def test_with_auto_the_settings_of_every_cloud_may_stand_there() -> None:
    text = "address: 198.19.0.1/32, settings: {backend_pools: [lb/nodes], resource_group: [a, b]}"
    (vip,) = load_text(with_vip(text), "hafarm.yaml").mirrors[0].vip
    assert vip.settings == {"backend_pools": ("lb/nodes",), "resource_group": ("a", "b")}


def test_the_health_port_reaches_the_model() -> None:
    config = load_text(with_vip("address: 198.18.0.100/24", health=True), "hafarm.yaml")
    assert config.health_port == 9702
    assert load_text(with_vip("address: 198.18.0.100/24"), "hafarm.yaml").health_port == 0


@pytest.mark.parametrize(
    ("vip", "place", "said"),
    [
        ("provider: awz", "provider", "no provider is named awz, did you mean 'aws'?"),
        ("provider: aws, mode: overlay-rout", "mode", "did you mean 'overlay-route'?"),
        ("provider: aws, mode: overlay-route", "settings", "overlay-route needs route_tables"),
        ("provider: aws, mode: elastic-ip", "settings", "elastic-ip needs allocation"),
        (
            ROUTES.replace("route_tables", "route_table"),
            "settings.route_table",
            "did you mean 'route_tables'?",
        ),
        (ROUTES, "address", "stands alone: 198.18.0.100/32"),
        (
            "provider: aws, mode: nlb-probe, settings: {target_groups: [x]}",
            "mode",
            "needs `ports: {health: PORT}`",
        ),
        ("provider: aws, mode: secondary-ip, settings: {region: [a, b]}", "settings.region", "not a list"),
        ("provider: aws, mode: secondary-ip, settings: {vpc: ''}", "settings.vpc", "is empty"),
        ("provider: gcp, mode: rout", "mode", "did you mean 'route'?"),
        ("provider: gcp, mode: route", "address", "stands alone: 198.18.0.100/32"),
        ("provider: gcp, mode: forwarding-rule", "settings", "forwarding-rule needs forwarding_rules"),
        ("provider: gcp, mode: ilb-probe, settings: {forwarding_rules: a}", "mode", "needs `ports: {health"),
        ("provider: gcp, settings: {vpc: x}", "settings.vpc", "unknown setting"),
        ("provider: azure, mode: udr", "settings", "udr needs route_tables"),
        (
            "provider: azure, mode: udr, settings: {route_tables: [a]}",
            "address",
            "stands alone: 198.18.0.100/32",
        ),
        ("provider: azure, mode: usr", "mode", "azure has no mode usr, did you mean 'udr'?"),
        ("provider: azure, mode: lb-pool, settings: {pools: [a/b]}", "settings.pools", "unknown setting"),
        (
            "provider: azure, mode: ilb-probe, settings: {load_balancer: lb}",
            "mode",
            "needs `ports: {health: PORT}`",
        ),
        (
            "provider: azure, mode: public-ip, settings: {public_ip: [a, b]}",
            "settings.public_ip",
            "one value, not a list",
        ),
        ("provider: onprem, settings: {region: x}", "settings", "has no settings"),
        ("provider: aws, mode: dns, settings: {zone: Z1}", "settings", "dns needs record"),
        (
            "provider: aws, mode: dns, settings: {zone: Z1, record: a.b, tll: 5}",
            "settings.tll",
            "did you mean 'ttl'?",
        ),
        ("mode: overlay-route", "mode", "provider auto has no modes"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(vip: str, place: str, said: str) -> None:
    told = refused(with_vip(f"address: 198.18.0.100/24, {vip}"))
    assert any(f"vip.0.{place}: " in line and said in line for line in told), told


def test_the_health_port_is_nobody_elses() -> None:
    made = with_vip("address: 198.18.0.100/24").replace("preset: lan,", "preset: lan, ports: {health: 9701},")
    assert any("port 9701 is the agents'" in line for line in refused(made))


def test_scheduled_events_are_heeded_by_choice() -> None:
    assert load_text(changed("preset: lan,", "preset: lan,"), "hafarm.yaml").scheduled_events == ""
    for choice in ("swap", "tell"):
        text = changed("preset: lan,", f"preset: lan, scheduled_events: {choice},")
        assert load_text(text, "hafarm.yaml").scheduled_events == choice
    told = refused(changed("preset: lan,", "preset: lan, scheduled_events: drain,"))
    assert any("cluster.scheduled_events: " in line and "'swap' or 'tell'" in line for line in told), told


def test_with_auto_the_settings_of_every_cloud_may_stand() -> None:
    text = "address: 198.18.0.100/24, settings: {route_tables: [rtb-1], forwarding_rules: [shop], project: p}"
    (vip,) = load_text(with_vip(text), "hafarm.yaml").mirrors[0].vip
    assert vip.settings["forwarding_rules"] == ("shop",)
