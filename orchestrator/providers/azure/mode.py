"""What every way of moving an address in Azure has in common."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.providers.azure.account import BUSY, NAME, OUTRUN, call, code_of
from orchestrator.providers.azure.ground import DONE, UNDER_WAY, Ground, Part
from orchestrator.providers.azure.names import Resource, holder, resource
from orchestrator.providers.azure.rights import ASK, Right, Where, permitted
from orchestrator.providers.faults import ProviderFault, ProviderRefused, ProviderUnreachable
from orchestrator.providers.modes import LOOK_AGAIN_MAX_S, LOOK_AGAIN_S, Mode
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Finding, Sight

WANTED: Final = frozenset({DONE, *UNDER_WAY})
LAST_S: Final = 1.0
"""With less than this left of an order no further part is begun: the rest is the next attempt's."""
ONLY_NEW: Final = {"If-None-Match": "*"}
"""Of a request that makes something: not where somebody made it meanwhile."""


class Looked(threading.local):
    """What this very thread saw last, by address.

    A claim acts on what it has judged: a look beside it may have seen another owner since, whom it must not
    take it from.
    """

    def __init__(self) -> None:
        self.parts: dict[str, Mapping[str, Part]] = {}
        self.things: dict[str, Mapping[str, Any]] = {}
        """As Azure gave them, with their ETags."""


class AzureMode(Mode[Ground]):
    """One way."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._looked = Looked()

    def judged(self, vip: Vip, parts: Mapping[str, Part], by_address: bool) -> Sight:
        """Who has it. `by_address`: the parts' owners are addresses, else interfaces."""
        self._looked.parts[vip.address] = parts
        return self._ground.sight(parts, by_address)

    def seen(self, vip: Vip) -> Part:
        """Of an address that is one thing: a claim looks directly before it moves, and judges who has it."""
        (part,) = self._looked.parts[vip.address].values()
        return part

    def ended(
        self, vip: Vip, failed: Mapping[str, ProviderFault], leave: Leave
    ) -> Mapping[str, ProviderFault]:
        """Look until nothing is under way that was not refused; with the parts whose change went wrong."""
        for _ in pauses(leave.left_s):
            seen = self.look([vip])[vip.address]
            if not isinstance(seen, ProviderFault):
                states = {label: part.state for label, part in self._looked.parts[vip.address].items()}
                if not any(state in UNDER_WAY for label, state in states.items() if label not in failed):
                    wrong = {
                        label: _went_wrong(label, state) for label, state in states.items() if state != DONE
                    }
                    return _not_all(wrong | dict(failed), len(states))
            elif not seen.again:
                raise seen
        return _not_all(failed, len(self._looked.parts[vip.address]))

    def write(
        self,
        one: Resource,
        seen: Any,
        see: Callable[[], Any],
        owners: Callable[[Any], frozenset[str]],
        send: Callable[[Any], Any],
        leave: Leave,
    ) -> None:
        """Let `send` change what was seen, under its ETag.

        A change of something beside it makes that old too. Then, and where something else is under way, it is
        seen anew, and sent again if its owners are still the same: what was refused was not done.
        """
        fault = ProviderUnreachable(NAME, one.short, "it was not begun: the attempt's time is over")
        if leave.left_s() < LAST_S:
            raise fault
        # Of a balancer or a table one change at a time is taken.
        with self._ground.turn(holder(one.id)):
            for _ in pauses(leave.left_s):
                try:
                    send(seen)
                    return
                except ProviderUnreachable as refused:
                    if code_of(refused) not in OUTRUN | BUSY:
                        raise
                    fault = refused
                fresh = see()
                if owners(fresh) != owners(seen):
                    break
                seen = fresh
        raise fault

    @staticmethod
    @abstractmethod
    def rights(vip: Vip, where: Where) -> list[Right]:
        """The least rights for this address."""

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        """Nodes that are in none of the resource groups: what is told of the others may be wrong."""
        self._ground.learn()
        groups = ", ".join(self._ground.names.groups)
        return [
            Finding(
                node,
                f"no network interface in resource group {groups} has any of its addresses",
                "correct its `addresses`, or name its group in `resource_group` too",
            )
            for node in vip.nodes
            if self._ground.nic(node) is None
        ]

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


def _went_wrong(label: str, state: str) -> ProviderFault:
    """It is asked for again: most often something else was under way there."""
    return ProviderUnreachable(NAME, label, f"its change ended as {state}: Azure's activity log says why")


def _not_all(failed: Mapping[str, ProviderFault], parts: int) -> Mapping[str, ProviderFault]:
    """Where nothing at all was moved there is nothing to serve by."""
    if len(failed) == parts:
        raise next(iter(failed.values()))
    return failed


def state_of(found: Any) -> str:
    """How far the last change of a thing is."""
    return plain(found.provisioning_state) or DONE


def plain(value: object) -> str:
    """The library gives members of enumerations where it knows the word, and text where not."""
    return str(getattr(value, "value", value) or "")


def is_wanted(found: Any) -> bool:
    """Whether what it says is so, or will be: only what went wrong must be asked for again."""
    return state_of(found) in WANTED


def pauses(left_s: Callable[[], float]) -> Iterator[None]:
    """Growing, for as long as there is time for the next one."""
    pause_s = LOOK_AGAIN_S
    while left_s() > pause_s:
        yield
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LOOK_AGAIN_MAX_S)


def only_as_seen(found: Any) -> dict[str, str]:
    """Of a request that changes something: not where somebody changed it meanwhile."""
    return {"If-Match": str(found.etag)} if found.etag else {}


def called(address: str) -> str:
    """What is made for an address; names have no colons there."""
    return f"hafarm-{address.replace(':', '-')}"
