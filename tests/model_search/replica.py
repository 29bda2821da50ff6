"""A small model of one mirror's replicator: one extent, a gate, an ordered stream, copies, durable points.

The acknowledgement is the product's `Gate`; what is modelled is what carries bytes. A function changes the
turn's node; what clients could notice is appended to the turn's facts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.mirror.lineage import Joiner, Verdict, judge
from orchestrator.model.events import (
    GateClosed,
    HandshakeRefused,
    MemberLost,
    ReignTaken,
    StreamDown,
    StreamUp,
)
from orchestrator.model.names import Epoch, NodeName
from orchestrator.model.record import Record
from tests.model_search.gate import assemble, take_apart
from tests.model_search.values import Confirmed, Frame, Keeper, Node
from tests.support.brief import brief

if TYPE_CHECKING:
    from tests.model_search.hands import Turn

Fact = tuple[str, object]
"""("wrote", value), ("acknowledged", value), ("confirmed", Confirmed), ("opened", (record, memory, disk)); or
what is wrong in itself, as the name of the claim and a text."""


# --- what the agent orders ----------------------------------------------------------------------------------


def store(turn: Turn, epoch: Epoch, wanted: bool) -> None:
    """StoreModule."""
    if epoch < turn.node.epoch:
        turn.facts.append(("wrong", f"{turn.me} stores epoch {epoch} after {turn.node.epoch}"))
    turn.node = turn.node._replace(epoch=epoch, wanted=wanted)


def before_use(turn: Turn, record: Record, did: str) -> None:
    """R4: an epoch is durable before it is used."""
    if turn.node.epoch < record.epoch:
        text = f"{turn.me} {did} under epoch {record.epoch} with {turn.node.epoch} on disk"
        turn.facts.append(("not durable", text))


def widen(turn: Turn, members: frozenset[NodeName]) -> bool:
    """WidenRequired: refused for a newcomer that lacks something acknowledged; its stream begins anew."""
    keeper = turn.keeper
    newcomers = members - keeper.required
    gate = assemble(turn.me, keeper)
    gate.widen(newcomers)
    lacking = gate.lacking(newcomers)
    settled = gate.narrow(newcomers) if lacking else []
    _settle(turn, take_apart(keeper, gate, settled))
    for name in sorted(lacking):
        end_session(turn, name)
    return not lacking


def close(turn: Turn, drain: bool) -> bool:
    """CloseGate; True: it is closed already."""
    if drain:
        turn.change(draining=True, taking=None)
        return False
    shut(turn)
    return True


def shut(turn: Turn) -> None:
    """Acknowledge nothing more; what is held is answered with an error."""
    gate = assemble(turn.me, turn.keeper)
    gate.close()
    turn.change(is_open=False, draining=False, taking=None, points=(), sessions=())


def follow(turn: Turn, record: Record) -> None:
    """Follow."""
    before_use(turn, record, "followed")
    keeper = turn.keeper
    assert not keeper.is_open
    if keeper.source is not None and keeper.source != record.primary:
        leave_source(turn)
    turn.change(
        following=record,
        record=record,
        required=frozenset(),
        sessions=(),
        owns=False,
        taking=None,
        base=(None, 0),
        durable=(),
        kept=(),
        acknowledged=0,
    )


def admit(turn: Turn, record: Record) -> None:
    """AdmitReign."""
    before_use(turn, record, "admitted")
    turn.change(following=record, record=record)
    copied = turn.keeper.copied
    if copied is not None:
        turn.change(copied=copied.with_reign(record.reign, record.forced))
    elif turn.keeper.source is not None:
        remember(turn, record)


def remember(turn: Turn, record: Record, unheard: bool = False) -> None:
    """G1: the reign is in the lineage on disk before anything is acknowledged under it."""
    standing = turn.node.standing.with_reign(record.reign, record.forced, unheard)
    turn.node = turn.node._replace(standing=standing)


# --- the gate -----------------------------------------------------------------------------------------------


def take(turn: Turn) -> None:
    """The reign that was ordered begins here."""
    keeper = turn.keeper
    record = keeper.taking
    assert record is not None
    before_use(turn, record, "opened a gate")
    if record.nonce != keeper.life or record.primary != turn.me:
        text = f"{turn.me} opens under {brief(record)}, which does not name life {keeper.life} of its gate"
        turn.facts.append(("foreign life", text))
    opens = not keeper.is_open
    if opens:
        leave_source(turn)
        flush_before_start(turn)
        keeper = turn.keeper
        if not keeper.owns:
            stream = ("stream", record.reign)
            turn.change(
                base=(keeper.stream, keeper.seq), stream=stream, seq=0, owns=True, durable=(), points=(),
                acknowledged=0, kept=(),
            )  # fmt: skip
        turn.facts.append(("opened", (record, turn.node.memory, turn.node.disk)))
    turn.change(record=record, following=None, taking=None, draining=False)
    remember(turn, record, unheard=len(record.in_sync) > 1 and not record.forced)
    gate = assemble(turn.me, turn.keeper)
    settled = gate.serve(record.in_sync)
    turn.change(is_open=True)
    _settle(turn, take_apart(turn.keeper, gate, settled))
    turn.tell(ReignTaken(turn.module, record))


def flush_before_start(turn: Turn) -> None:
    """R10."""
    turn.node = turn.node._replace(disk=turn.node.memory)


def drained(turn: Turn) -> None:
    """A planned end waited as long as it would: who holds everything is equal."""
    keeper = turn.keeper
    equal = equal_members(turn.node)
    gate = assemble(turn.me, keeper)
    gate.close()
    turn.change(is_open=False, draining=False, points=())
    turn.tell(GateClosed(turn.module, equal | {turn.me}))


def equal_members(node: Node) -> frozenset[NodeName]:
    """R8: whose disk holds what this disk holds."""
    keeper = node.keeper
    assert keeper is not None
    if node.memory != node.disk:
        return frozenset()
    durable = dict(keeper.durable)
    return frozenset(name for name, ready in keeper.sessions if ready and durable.get(name, 0) >= keeper.seq)


def write(turn: Turn, value: int) -> None:
    """The application overwrites the extent and waits for its disk."""
    keeper = turn.keeper
    seq = keeper.seq + 1
    gate = assemble(turn.me, keeper)
    settled = gate.hold(seq, (seq, value))
    keeper = take_apart(keeper, gate, [])
    turn.node = turn.node._replace(memory=value, keeper=keeper)
    assert keeper.record is not None
    kept = (*keeper.kept, (seq, keeper.record.epoch, value))
    turn.change(seq=seq, points=(*keeper.points, (seq, value, settled, False)), kept=kept)
    turn.facts.append(("wrote", value))


def sync(turn: Turn) -> None:
    """What the page cache holds reaches this disk."""
    turn.node = turn.node._replace(disk=turn.node.memory)
    keeper = turn.node.keeper
    if keeper is None:
        return
    if keeper.source is not None:
        assert keeper.stream is not None
        turn.change(synced=keeper.seq, copied=None)
        if keeper.copied is not None:
            turn.node = turn.node._replace(standing=replace(keeper.copied, unheard=None))
        turn.facts.append(("confirmed", Confirmed(turn.me, keeper.stream, keeper.seq)))
    points = tuple((seq, value, settled, True) for seq, value, settled, _ in keeper.points)
    _settle(turn, turn.keeper._replace(points=points))


def confirm(turn: Turn, confirmed: Confirmed) -> None:
    """A member's confirmation arrives."""
    keeper = turn.keeper
    epoch = turn.node.standing.epoch
    if any(seq <= confirmed.seq and made >= epoch for seq, made, _ in keeper.kept):
        # It applied what was made under the last reign, so it has heard of that.
        turn.node = turn.node._replace(standing=replace(turn.node.standing, unheard=None))
    gate = assemble(turn.me, keeper)
    settled = gate.confirm(confirmed.member, confirmed.seq)
    keeper = take_apart(keeper, gate, settled)
    sessions = tuple((name, ready or name == confirmed.member) for name, ready in keeper.sessions)
    _settle(turn, keeper._replace(sessions=sessions))


def _settle(turn: Turn, keeper: Keeper) -> None:
    """Answer the fsyncs that each of `required` and this disk have (R1)."""
    waiting = []
    for point in keeper.points:
        _, value, settled, local = point
        if keeper.is_open and settled and local:
            turn.facts.append(("acknowledged", value))
        else:
            waiting.append(point)
    turn.node = turn.node._replace(keeper=keeper._replace(points=tuple(waiting)))


# --- the stream ---------------------------------------------------------------------------------------------


def leave_source(turn: Turn) -> None:
    """The member's side of a stream ends."""
    source = turn.keeper.source
    if source is not None:
        turn.change(source=None, synced=-1)
        turn.tell(StreamDown(turn.module, source, "the stream ended"))


def end_session(turn: Turn, name: NodeName) -> None:
    """The primary's side of a stream ends."""
    sessions = tuple(session for session in turn.keeper.sessions if session[0] != name)
    turn.change(sessions=sessions)
    turn.tell(StreamDown(turn.module, name, "the stream ended"))


def may_meet(primary: Node, me: NodeName, member: Node) -> bool:
    """Whether a dialled stream would be answered."""
    mine, theirs = primary.keeper, member.keeper
    if mine is None or theirs is None or not mine.is_open or mine.draining or mine.record is None:
        return False
    following = theirs.following
    if following is None or following.primary != me or theirs.is_open or theirs.taking is not None:
        return False
    return following.epoch <= mine.record.epoch


def verdict(primary: Node, member: Node, name: NodeName) -> str:
    """How a stream begins, by the product's own ruling.

    'continue' by sequence, 'base' from equal disks, 'copy', 'copy, set aside', 'unproven', or 'refused'.
    """
    mine, theirs = primary.keeper, member.keeper
    assert mine is not None
    assert mine.record is not None
    assert theirs is not None
    equal = theirs.stream is not None and (theirs.stream, theirs.seq) == mine.base
    continues = theirs.copied is None and (equal or theirs.stream == mine.stream)
    empty = not member.standing.reigns and member.memory == member.disk == 0
    joiner = Joiner(name, member.standing, empty, continues and name in mine.record.in_sync)
    ruling = judge(mine.record, primary.standing, joiner, True, "")
    if ruling.refused:
        return "refused"
    if ruling.copy:
        return "copy, set aside" if ruling.set_aside else "copy"
    if ruling.verdict is Verdict.UNPROVEN:
        return "unproven"
    return "base" if equal else "continue"


def meet_as_primary(turn: Turn, name: NodeName, how: str) -> None:
    """The primary's side of a new stream."""
    if how == "unproven":
        turn.tell(MemberLost(turn.module, name, "it restarted"))
        return
    if how == "refused":
        turn.tell(HandshakeRefused(turn.module, name, "the histories do not fit"))
        return
    sessions = dict(turn.keeper.sessions)
    sessions[name] = how in ("continue", "base")
    turn.change(sessions=tuple(sorted(sessions.items())))
    turn.tell(StreamUp(turn.module, name))


def meet_as_member(turn: Turn, source: NodeName, how: str, primary: Node) -> None:
    """The member's side; a copy brings the primary's extent into memory, and a sync to this disk."""
    assert primary.keeper is not None
    stream, seq, value, standing = primary.keeper.stream, primary.keeper.seq, primary.memory, primary.standing
    if how.startswith("copy"):
        if how == "copy" and turn.node.memory != value:
            turn.facts.append(("overwrote", turn.node.memory))
        turn.change(stream=stream, seq=seq, owns=False, copied=standing)
        turn.node = turn.node._replace(memory=value)
    elif how == "base":
        turn.change(stream=stream, seq=0, owns=False)
    turn.change(source=source, synced=-1)
    turn.tell(StreamUp(turn.module, source))


def fits(keeper: Keeper, frame: Frame, source_epoch: int) -> bool:
    """R6: the epoch is admitted and not over, and the position follows exactly.

    `source_epoch`: what its sender serves under, as long as it would send the frame again.
    """
    following = keeper.following
    if keeper.source is None or following is None:
        return False
    if frame.epoch > following.epoch or max(frame.epoch, source_epoch) < following.epoch:
        return False
    return frame.stream == keeper.stream and frame.seq == keeper.seq + 1


def still_fits(keeper: Keeper | None, frame: Frame) -> bool:
    """Whether this frame can ever be applied; what cannot is forgotten, so that fewer states differ by it."""
    return keeper is not None and keeper.stream == frame.stream and keeper.seq < frame.seq


def apply(turn: Turn, frame: Frame) -> None:
    """A member takes a write into its page cache."""
    turn.change(seq=frame.seq)
    turn.node = turn.node._replace(memory=frame.value)
