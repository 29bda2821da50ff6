"""Whether a network's firewall rules let a load balancer's probes through: decided from the rules alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import Any, Final

from orchestrator.providers.gcp.ground import Nic

ANYWHERE: Final = ("0.0.0.0/0", "::/0")
"""What a rule without any source means."""
TCP: Final = frozenset({"tcp", "6", "all"})


def admits(rules: Iterable[Any], source: str, port: int, nic: Nic) -> bool:
    """The rule with the lowest number decides, of equal ones that which denies; without one nothing enters.

    A range is let through only if a rule covers the whole of it; a rule that denies any part of it counts.
    """
    fitting = [each for each in rules if _is_for(each, nic)]
    for rule in sorted(fitting, key=lambda each: (each.priority, not each.denied)):
        sources = _sources(rule)
        if _names(rule.denied, port) and any(_meet(source, each) for each in sources):
            return False
        if _names(rule.allowed, port) and any(_covers(each, source) for each in sources):
            return True
    return False


def _is_for(rule: Any, nic: Nic) -> bool:
    if rule.direction != "INGRESS" or rule.disabled:
        return False
    if rule.target_tags:
        return bool(nic.tags & set(rule.target_tags))
    if rule.target_service_accounts:
        return bool(nic.accounts & set(rule.target_service_accounts))
    return True


def _sources(rule: Any) -> Sequence[str]:
    """Who comes by a tag or an account is an instance, and a prober is none."""
    if rule.source_ranges:
        return list(rule.source_ranges)
    if rule.source_tags or rule.source_service_accounts:
        return ()
    return ANYWHERE


def _names(parts: Iterable[Any], port: int) -> bool:
    return any(
        each.I_p_protocol.lower() in TCP and (not each.ports or any(_has(text, port) for text in each.ports))
        for each in parts
    )


def _has(text: str, port: int) -> bool:
    first, _, end = text.partition("-")
    return int(first) <= port <= int(end or first)


def _covers(wide: str, narrow: str) -> bool:
    one, other = ip_network(wide, strict=False), ip_network(narrow)
    return one.version == other.version and other.subnet_of(one)  # type: ignore[arg-type]


def _meet(one: str, other: str) -> bool:
    return ip_network(one).overlaps(ip_network(other, strict=False))
