"""What must be true in every state, and what clients were told so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from orchestrator.mirror.serving import PROMOTED_OFFLINE
from orchestrator.model.names import NodeName
from orchestrator.model.record import Record
from tests.model_search.moves import can_land
from tests.model_search.replica import Fact
from tests.model_search.values import Ghost, Node, Request
from tests.support.brief import brief

WRONG: Final = frozenset({"wrong", "not durable", "foreign life", "no gate", "assertion"})
"""Facts that are a violation in themselves."""


def learn(ghost: Ghost, name: NodeName | None, facts: Iterable[Fact]) -> tuple[Ghost, str]:
    """What clients know after these facts, and what is wrong with it."""
    for kind, value in facts:
        wrong = ""
        match kind, value:
            case "wrote", int(number):
                ghost = _wrote(ghost, name, number)
            case "acknowledged", int(number):
                ghost, wrong = _acknowledged(ghost, name, number)
            case "overwrote", int(number) if number in ghost.given_up:
                wrong = f"{number}, which clients were told of, is overwritten in silence"
            case "opened", (Record() as record, int(memory), int(disk)):
                ghost, wrong = _opened(ghost, name, record, memory, disk)
        if wrong:
            return ghost, wrong
    return ghost, ""


def _wrote(ghost: Ghost, name: NodeName | None, number: int) -> Ghost:
    # Only what the gate opened last writes is history; an elder one's writes are not acknowledged any more.
    if name != ghost.owner:
        return ghost
    return ghost._replace(line=(*ghost.line, number), known=ghost.known | {number})


def _acknowledged(ghost: Ghost, name: NodeName | None, number: int) -> tuple[Ghost, str]:
    if ghost.two:
        ghost = ghost._replace(given_up=ghost.given_up | {number})
    if number in ghost.line:
        return ghost._replace(line=ghost.line[ghost.line.index(number) :]), ""
    if number in ghost.known:
        return ghost, ""  # A late word by a former primary; the one that serves now holds it.
    if ghost.forced and name != ghost.owner:
        # The operator gave this side up, and what it acknowledges until it hears of that.
        return ghost._replace(given_up=ghost.given_up | {number}), ""
    return ghost, f"{name} acknowledged {number}, which {ghost.owner} does not hold: two nodes acknowledge"


def _opened(ghost: Ghost, name: NodeName | None, record: Record, memory: int, disk: int) -> tuple[Ghost, str]:
    if memory != disk:
        return ghost, f"{name} starts with {memory} in memory and {disk} on disk: a power cut takes it back"
    if record.epoch <= ghost.owner_epoch and name != ghost.owner:
        return ghost, ""
    line = ghost.line
    if memory in line:
        line = line[: line.index(memory) + 1]
    elif record.forced or ghost.forced >= record.epoch or ghost.two:
        line = (memory,)
    else:
        told = f"clients were told {line[0]}, the history is {list(line)}"
        return ghost, f"{name} starts under epoch {record.epoch} with {memory}; {told}"
    given_up = ghost.given_up
    if memory not in ghost.line:
        given_up |= set(ghost.line)
    forced = record.epoch if record.forced else ghost.forced
    known = ghost.known | {memory}
    two = ghost.two or record.reason == PROMOTED_OFFLINE
    return Ghost(line, known, name, record.epoch, forced, given_up, two), ""


def granted(register: Record | None, facts: Iterable[Fact], answers: bool) -> str:
    """A gate opens only under what the register holds or held; but by an operator's order where it is silent.

    `answers`: it always does.
    """
    for kind, value in facts:
        match kind, value:
            case "opened", (Record() as record, _, _) if register is not None and (
                answers or record.reason != PROMOTED_OFFLINE
            ):
                if record.epoch > register.epoch or (
                    record.epoch == register.epoch and record.reign != register.reign
                ):
                    return f"{record.primary} starts under {brief(record)}, which the register never granted"
    return ""


def lacking(record: Record | None, disks: Mapping[NodeName, int], ghost: Ghost) -> str:
    """Each member of the record's in-sync set has on disk what was acknowledged last, or a later write."""
    if record is None or record.forced or ghost.two:
        return ""
    for name in sorted(record.in_sync):
        if disks[name] not in ghost.line:
            return (
                f"{name} is in sync and has {disks[name]} on disk; clients were told {ghost.line[0]}, "
                f"the history is {list(ghost.line)}"
            )
    return ""


def two_able(nodes: Mapping[NodeName, Node]) -> str:
    """At most one node may acknowledge without another that could say no.

    But for the side that an operator gave up: it serves on until it hears of that (docs/guarantees.md).
    """
    able = [name for name in nodes if can_acknowledge(name, nodes)]
    if any(_by_order(nodes[name]) for name in able):
        return ""
    if len(able) < 2:
        return ""
    return f"{' and '.join(able)} can acknowledge, each without the other"


def _by_order(node: Node) -> bool:
    return node.keeper is not None and node.keeper.record is not None and node.keeper.record.forced


def can_acknowledge(me: NodeName, nodes: Mapping[NodeName, Node]) -> bool:
    """Nothing that this node does not command keeps a write from being acknowledged here."""
    keeper = nodes[me].keeper
    if keeper is None or not keeper.is_open:
        return False
    sessions = dict(keeper.sessions)
    for name in keeper.required - {me}:
        theirs = nodes[name].keeper
        if name not in sessions or theirs is None or theirs.source != me:
            return False
    return True


def too_narrow(me: NodeName, node: Node, register: Record | None, requests: Iterable[Request]) -> str:
    """R1: `required` holds the union of the record's set and of each own bid's that is not resolved."""
    keeper = node.keeper
    if keeper is None or not keeper.is_open or keeper.record is None:
        return ""
    needed = set(keeper.record.in_sync)
    for request in requests:
        if request.record.nonce == keeper.life and can_land(request.expected, register):
            needed |= request.record.in_sync
    if register is not None and register.nonce == keeper.life and register.primary == me:
        needed |= register.in_sync
    if needed <= keeper.required:
        return ""
    return f"{me}'s gate waits for {sorted(keeper.required)}, and must for {sorted(needed)}"
