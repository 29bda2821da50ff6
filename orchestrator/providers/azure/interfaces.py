"""A network interface is written whole, under the ETag that was read, one change of ours after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.providers.azure.account import NAME, call
from orchestrator.providers.azure.ground import UNDER_WAY, Ground
from orchestrator.providers.azure.mode import only_as_seen, pauses, state_of
from orchestrator.providers.azure.names import Resource
from orchestrator.providers.faults import ProviderUnreachable

LeftS = Callable[[], float]


def settled(ground: Ground, one: Resource, left_s: LeftS) -> Any:
    """The interface, when nothing is under way on it any more."""
    client = ground.account.network(one.subscription)
    for _ in pauses(left_s):
        found = call(
            lambda: client.network_interfaces.get(one.group, one.names[0]),
            f"interface {one.short}",
            ground.account,
        )
        if state_of(found) not in UNDER_WAY:
            return found
    raise ProviderUnreachable(NAME, f"interface {one.short}", "a change of it is under way")


def rewrite(ground: Ground, one: Resource, change: Callable[[Any], bool], left_s: LeftS) -> None:
    """Let `change` change what was read; where it says that it did, that is asked for, and not waited for."""
    client = ground.account.network(one.subscription)
    with ground.turn(one.key):
        found = settled(ground, one, left_s)
        if not change(found):
            return
        call(
            lambda: client.network_interfaces.begin_create_or_update(
                one.group, one.names[0], found, headers=only_as_seen(found), polling=False
            ).result(),
            f"the change of interface {one.short}",
            ground.account,
        )
