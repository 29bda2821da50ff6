"""The other nodes' way: wait, follow the primary, take over when the record allows it."""

from __future__ import annotations

from orchestrator.mirror import bids, serving
from orchestrator.mirror.state import Mirror, Reach, Register, Stage
from orchestrator.mirror.turn import Turn
from orchestrator.model.effects import (
    AdmitReign,
    CloseGate,
    Follow,
    ReleaseAddresses,
    StartReplicator,
    StopApplication,
    TakeReign,
)
from orchestrator.model.events import ReplicatorUp
from orchestrator.model.names import Instant, NodeName
from orchestrator.model.record import Record
from orchestrator.model.report import ModuleState, Role

RELAUNCH_S = 1.0
"""Before a replicator that could not live is started again: long enough not to fill the log."""
STOPPED_PRIMARY_S = 5.0
"""A primary of record that says STOP is given so long to be started too, before a member starts alone."""


def launch(turn: Turn) -> None:
    """Have a replicator, as long as the module is wanted here."""
    mirror = turn.mirror
    if mirror.wanted and mirror.life is None and not mirror.launched:
        if mirror.again_at is not None and mirror.again_at > turn.now:
            return
        turn.set(launched=True, again_at=None)
        turn.do(StartReplicator(mirror.module))


def leave_unwanted(turn: Turn) -> None:
    """What runs here although the operator wants it stopped, as after a crash in the middle of a stop."""
    mirror = turn.mirror
    if mirror.wanted or mirror.life is None:
        return
    if mirror.held is None:
        serving.halt(turn)
    elif mirror.stage in (Stage.SERVING, Stage.RESTING):
        serving.end(turn, "stop")


def replicator_up(turn: Turn, event: ReplicatorUp) -> None:
    """A gate exists: a new life (R5), or the one that the former agent had."""
    mirror = turn.mirror
    if mirror.held is not None and mirror.life == event.life:
        _same_gate(turn, mirror.held, event.open)
        return
    if mirror.held is not None:
        serving.demote(turn, "the gate's life is over")
    turn.set(life=event.life, launched=False, halting=False, failed="", bids=(), bidding=False, trouble="")
    turn.set(following=event.following)
    if turn.mirror.role is Role.STOP:
        turn.become(Role.WAIT)
    if event.record is not None and not bids.is_stale(turn.mirror, event.record):
        bids.learn(turn, event.record, proved=False)
    if event.open and event.record is not None:
        _take_back(turn, event, event.record)
    elif event.required:
        # A gate that was closed while its needs were wide: they stay until a bid is proved (R1).
        turn.set(required=event.required)
    if turn.mirror.held is None and (event.application or event.addresses):
        # What stood on a former gate, or was being ended when the agent died.
        turn.do(StopApplication(mirror.module, force=True), ReleaseAddresses(mirror.module))
    elif turn.mirror.held is not None:
        turn.set(running=event.application, claimed=event.addresses)
    bids.read(turn)


def _same_gate(turn: Turn, held: Record, is_open: bool) -> None:
    """Its replicator restarted beneath a living keeper: what it was asked last may be lost with it."""
    turn.forget_streams()
    if turn.mirror.taking:
        turn.do(TakeReign(turn.mirror.module, held))
    elif turn.mirror.stage is Stage.DRAINING:
        turn.do(CloseGate(turn.mirror.module, drain=True))
    elif turn.mirror.stage is not Stage.HANDING:
        turn.set(shut=not is_open)


def _take_back(turn: Turn, event: ReplicatorUp, record: Record) -> None:
    """The agent restarted beneath a serving gate: go on where it stands, touch nothing."""
    turn.set(held=record, required=event.required | record.in_sync, stage=Stage.OVERLAP)
    turn.become(bids.role_under(turn.mirror, record))
    turn.set(running=event.application, again_at=None)
    if event.application and event.addresses:
        turn.set(stage=Stage.SERVING, claimed=True)
        bids.lease(turn)
        return
    if not event.application and not event.addresses:
        # The former agent may have been waiting for the other side's end.
        turn.set(again_at=serving.others_end(turn, record))
    serving.go_on(turn)


def replicator_lost(turn: Turn, why: str) -> None:
    """The gate's life is over; whatever ran on it ends."""
    turn.tell("HF4002", f"the replicator is gone: {why}")
    if turn.mirror.held is not None:
        serving.demote(turn, "the gate's life is over")
    turn.set(
        life=None,
        launched=False,
        halting=False,
        following=None,
        required=frozenset(),
        bids=(),
        bidding=False,
        again_at=turn.at_the_latest(RELAUNCH_S),
        trouble=why,
    )
    turn.forget_streams()
    if turn.mirror.role is Role.SECOND:
        turn.become(Role.WAIT)


def replicator_stopped(turn: Turn) -> None:
    """The directory is plain files again."""
    if turn.mirror.held is not None:
        serving.demote(turn, "the gate was stopped")
    turn.set(life=None, launched=False, halting=False, following=None, failed="")
    turn.set(required=frozenset(), bids=(), bidding=False)
    turn.forget_streams()
    if not turn.mirror.wanted and turn.mirror.role is not Role.STOP:
        turn.become(Role.STOP)
        turn.set(leaving=False)
        turn.tell("HF1106", "stopped")


def wait_or_take(turn: Turn) -> None:
    """Neither primary nor about to be: what the record says should be done."""
    mirror = turn.mirror
    if mirror.held is not None or mirror.life is None or mirror.bidding or not mirror.wanted:
        return
    record = mirror.record
    if mirror.register in (Register.UNKNOWN, Register.EMPTY) and record is None:
        _begin(turn)
    elif record is None or mirror.register is Register.RESTORED:
        _ask_again(turn)
    elif not mirror.stored:
        return  # `ModuleStored` comes, or the write is tried again
    elif mirror.accept_loss and mirror.register is Register.SILENT:
        _serve_offline(turn, record)
    elif mirror.leaving and mirror.me not in record.in_sync:
        _left(turn)
    elif record.primary == mirror.me or mirror.force or _successor(turn, record):
        _take_over(turn, record)
    else:
        follow(turn, record)


def _begin(turn: Turn) -> None:
    """No record is known: read it, or make the first one by order."""
    mirror = turn.mirror
    if mirror.register is Register.EMPTY and bids.may_create(mirror):
        bids.create(turn)
    else:
        _ask_again(turn)


def _ask_again(turn: Turn) -> None:
    if turn.mirror.retry_at is None or turn.mirror.retry_at <= turn.now:
        bids.read(turn)


def _left(turn: Turn) -> None:
    turn.set(wanted=False)
    bids.store(turn)
    serving.halt(turn)


def _successor(turn: Turn, record: Record) -> bool:
    """A member may act when nothing is to be expected from the primary of record."""
    mirror = turn.mirror
    if mirror.me not in record.in_sync or mirror.leaving:
        return False
    peer = mirror.peers.get(record.primary)
    if peer is None:
        return False
    said = peer.said
    gave_up = said is not None and said.abandoned >= record.epoch and not said.serving
    if not (peer.gone or gave_up or _stays_stopped(turn, peer.stopped_since)):
        return False
    return _my_turn(mirror, record)


def _stays_stopped(turn: Turn, since: Instant | None) -> bool:
    if since is None:
        return False
    due = Instant(since + max(STOPPED_PRIMARY_S, 4 * turn.mirror.timings.detection_s))
    if due > turn.now:
        turn.set(again_at=due)
        return False
    return True


def _my_turn(mirror: Mirror, record: Record) -> bool:
    """Of several members the first alive in the configured order bids; the register decides anyway."""
    for name in mirror.nodes:
        if name == mirror.me:
            return True
        peer = mirror.peers.get(name)
        if (
            name in record.in_sync
            and name != record.primary
            and peer is not None
            and peer.reach is Reach.ALIVE
        ):
            return False
    return True


def _take_over(turn: Turn, record: Record) -> None:
    """Open under a record that is already ours, or bid for one (R2, R5: for `{me}` alone)."""
    mirror = turn.mirror
    if mirror.failed:
        return
    if bids.may_open(mirror, record):
        if mirror.proved:
            serving.open_gate(turn, record)
        else:
            _ask_again(turn)
        return
    if mirror.retry_at is not None and mirror.retry_at > turn.now:
        return
    if not bids.may_bid(mirror, record):
        # An operator's order came too late: this copy is not in sync any more.
        turn.set(force=False)
        follow(turn, record)
        return
    assert mirror.life is not None
    # A take-over that this life has not opened is still one, also when a former agent or life had won it.
    restart = record.primary == mirror.me and record.reason not in serving.MAY_OVERLAP
    reason = serving.PROMOTED if mirror.force else "restart" if restart else serving.TAKEOVER
    wish = record.following(
        primary=mirror.me,
        in_sync=frozenset({mirror.me}),
        nonce=mirror.life,
        # A force that was granted and not opened yet is still one: the copy may be half.
        forced=(mirror.accept_loss and mirror.me not in record.in_sync)
        or (record.forced and record.primary == mirror.me),
        reason=reason,
    )
    bids.bid(turn, record, wish)


def _serve_offline(turn: Turn, record: Record) -> None:
    """G6: by order and without the register: a reign of its own, told apart by its nonce."""
    mirror = turn.mirror
    if mirror.failed or mirror.reading:
        return
    assert mirror.life is not None
    reign = record.following(
        primary=mirror.me,
        in_sync=frozenset({mirror.me}),
        nonce=mirror.life,
        forced=True,
        reason=serving.PROMOTED_OFFLINE,
    )
    turn.set(record=reign, proved=False, epoch=reign.epoch, offline=True)
    bids.store(turn)
    serving.open_gate(turn, reign)


def follow(turn: Turn, record: Record) -> None:
    """Accept the stream of the primary of record."""
    mirror = turn.mirror
    peer = mirror.peers.get(record.primary)
    if record.primary == mirror.me or peer is None or peer.gone:
        if not mirror.proved or mirror.register is not Register.ANSWERS:
            _ask_again(turn)
        elif mirror.retry_at is None and not mirror.reading:
            # A bid of its own may still land, and name this node.
            turn.set(retry_at=turn.at_the_latest(bids.slow(mirror)))
        return
    if mirror.follow_at is not None:
        return
    bids.unmute(turn)
    if mirror.following is None or mirror.following.reign != record.reign:
        turn.set(following=record)
        turn.do(Follow(mirror.module, record))
    settle(turn)


def settle(turn: Turn) -> None:
    """SECOND while the primary's stream stands, WAIT otherwise; a bid for its role ends the stream."""
    mirror = turn.mirror
    if mirror.held is not None or mirror.role is Role.STOP or mirror.life is None:
        return
    if mirror.role is Role.SECOND and mirror.bidding:
        return
    source = mirror.following.primary if mirror.following else None
    peer = mirror.peers.get(source) if source else None
    turn.become(Role.SECOND if peer is not None and peer.stream else Role.WAIT)


def reign_offered(turn: Turn, record: Record) -> None:
    """Our primary has a newer record: it is durable here before anything is applied under it (R4)."""
    mirror = turn.mirror
    if mirror.following is None or record.primary != mirror.following.primary or mirror.held is not None:
        return
    if bids.is_stale(mirror, record) or (
        mirror.record is not None
        and record.epoch == mirror.record.epoch
        and record.nonce != mirror.record.nonce
    ):
        bids.read(turn)
        return
    bids.learn(turn, record, proved=False)
    turn.set(following=record)
    turn.do(AdmitReign(mirror.module, record))


def peer_said(turn: Turn, name: NodeName, said: ModuleState) -> None:
    """What another node tells of itself; a record that it serves under is a hint to ask, or to follow."""
    mirror = turn.mirror
    before = mirror.peers[name].stopped_since if name in mirror.peers else None
    stopped = said.role is Role.STOP
    turn.peer(name, said=said, stopped_since=(before or turn.now) if stopped else None)
    known = mirror.record
    if said.epoch <= mirror.epoch and (known is not None or said.epoch == 0):
        return
    if known is None or said.epoch > known.epoch:
        bids.read(turn)
    if mirror.held is None:
        hear(turn, name)


def hear(turn: Turn, name: NodeName) -> None:
    """Take the record that a serving primary tells of as what to follow; it proves nothing."""
    said = turn.mirror.peers[name].said
    if said is not None and said.serving and not said.forced:
        heard = _record_of(turn.mirror, name, said)
        if heard is not None and not bids.is_stale(turn.mirror, heard):
            bids.learn(turn, heard, proved=False)


def _record_of(mirror: Mirror, name: NodeName, said: ModuleState) -> Record | None:
    """The record that a serving primary tells of; good for following, never for opening a gate."""
    if said.primary != name or said.nonce is None or not said.in_sync <= frozenset(mirror.nodes):
        return None
    return Record(
        cluster=mirror.cluster,
        module=mirror.module,
        epoch=said.epoch,
        primary=name,
        in_sync=said.in_sync | {name},
        nodes=mirror.nodes,
        nonce=said.nonce,
        reason="heard from its primary",
    )
