"""What every way of moving an address in Azure has in common."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from orchestrator.providers.azure.account import call
from orchestrator.providers.azure.ground import DONE, UNDER_WAY, Ground
from orchestrator.providers.azure.names import Resource, resource
from orchestrator.providers.azure.rights import ASK, Right, Where, permitted
from orchestrator.providers.faults import ProviderRefused
from orchestrator.providers.modes import LOOK_AGAIN_MAX_S, LOOK_AGAIN_S, Mode
from orchestrator.providers.mover import Vip

ONLY_NEW: Final = {"If-None-Match": "*"}
"""Of a request that makes something: not where somebody made it meanwhile."""


class AzureMode(Mode[Ground]):
    """One way."""

    @staticmethod
    @abstractmethod
    def rights(vip: Vip, where: Where) -> list[Right]:
        """The least rights for this address."""

    def lacking(self, vip: Vip) -> Iterable[tuple[str, str]]:
        """By what Azure lists of this node's rights."""
        return self._lacking(self.rights(vip, self._ground.where(vip)))

    def _lacking(self, rights: Iterable[Right]) -> Iterable[tuple[str, str]]:
        for right in rights:
            # Looks have shown what may be read.
            wanted = [action for action in right.actions if not action.endswith("/read")]
            if wanted:
                yield from self._lacking_on(right.scope, wanted)

    def _lacking_on(self, scope: str, wanted: Sequence[str]) -> Iterable[tuple[str, str]]:
        named = resource(scope)
        assert named is not None, "a claim concerns single resources"
        try:
            held = self._ground.account.permissions(named.subscription, scope)
        except ProviderRefused as fault:
            yield f"{ASK} on {named.short}", f"whether a claim is permitted cannot be asked ({fault.why})"
            return
        for action in wanted:
            if not permitted(action, held):
                yield f"{action} on {named.short}", "this node's identity lacks the right"

    def _call(self, request: Callable[[], Any], what: str) -> Any:
        return call(request, what, self._ground.account)

    def _client(self, one: Resource) -> Any:
        return self._ground.account.network(one.subscription)


def state_of(found: Any) -> str:
    """How far the last change of a thing is."""
    return plain(found.provisioning_state) or DONE


def plain(value: object) -> str:
    """The library gives members of enumerations where it knows the word, and text where not."""
    return str(getattr(value, "value", value) or "")


def is_wanted(found: Any) -> bool:
    """Whether what it says is so, or will be: only what went wrong must be asked for again."""
    return state_of(found) in {DONE, *UNDER_WAY}


def pauses(left_s: Callable[[], float]) -> Iterator[None]:
    """Growing, for as long as there is time for the next one."""
    pause_s = LOOK_AGAIN_S
    while left_s() > pause_s:
        yield
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LOOK_AGAIN_MAX_S)


def only_as_seen(found: Any) -> dict[str, str]:
    """Of a request that changes something: not where somebody changed it meanwhile."""
    return {"If-Match": str(found.etag)}


def called(address: str) -> str:
    """What is made for an address; names have no colons there."""
    return f"hafarm-{address.replace(':', '-')}"
