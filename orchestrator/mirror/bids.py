"""The record's rules: who may bid, what a read proves, when a gate may open under a record (R1-R5, R9)."""

from __future__ import annotations

from orchestrator.mirror.state import Mirror, Reach, Register, Stage
from orchestrator.mirror.turn import Turn
from orchestrator.model.effects import (
    Bid,
    Lease,
    Mute,
    ReadRegister,
    StoreModule,
    TakeReign,
    Unmute,
    WidenRequired,
)
from orchestrator.model.names import NEVER, Epoch, NodeName
from orchestrator.model.record import Outcome, Record
from orchestrator.model.report import Role

HEALTH_PERIOD_S = 60.0
"""How often the register is read though nothing needs it, so that its death is known before it matters."""


# --- the rules, each by its name ------------------------------------------------------------------------


def may_bid(mirror: Mirror, expected: Record) -> bool:
    """R2: only a member of the in-sync set of the record whose tag is bid on; or an operator's order."""
    return mirror.me in expected.in_sync or mirror.accept_loss


def may_create(mirror: Mirror) -> bool:
    """R9: creation is not recovery: by order, once, and only where every configured node is virgin."""
    others = [mirror.peers.get(name) for name in mirror.nodes if name != mirror.me]
    return (
        mirror.first
        and mirror.epoch == NEVER
        and all(peer is not None and peer.said is not None and peer.said.virgin for peer in others)
    )


def may_open(mirror: Mirror, record: Record) -> bool:
    """R5: a gate opens under a record that names this node and this very life of its gate.

    A gate found again that was closed with wider needs than the record's must first resolve them by a bid.
    """
    return (
        record.primary == mirror.me
        and record.nonce == mirror.life
        # The others were told that this reign is over: they need not wait for it any more.
        and record.epoch > mirror.abandoned
        and (mirror.required <= record.in_sync or mirror.held is not None)
    )


def proves(bid: Record, record: Record) -> bool:
    """R3: a bid is resolved only by a record of its own epoch or a higher one."""
    return record.epoch >= bid.epoch


def is_stale(mirror: Mirror, record: Record) -> bool:
    """R4: lower than what this node has on disk: the register is lost or restored from an old copy."""
    return record.epoch < mirror.epoch


# --- asking ---------------------------------------------------------------------------------------------


def read(turn: Turn) -> None:
    """Ask the register, unless an answer is already on its way."""
    if not turn.mirror.reading:
        turn.set(reading=True, retry_at=None)
        turn.do(ReadRegister(turn.mirror.module))


def bid(turn: Turn, expected: Record | None, record: Record) -> None:
    """Send one bid, with everything that must be true before it leaves."""
    mirror = turn.mirror
    assert mirror.life is not None
    assert not mirror.bidding
    assert expected is None or record.forced or record.epoch == expected.epoch + 1
    if mirror.held is not None:
        widened = mirror.required | record.in_sync
        if not record.in_sync <= mirror.held.in_sync:
            # Also where it was ordered before: what was ordered may not have reached the gate.
            turn.set(required=widened, widening=widened - mirror.required)
            lease(turn)
            turn.do(WidenRequired(mirror.module, widened))
    else:
        # T4: once a take-over bid is out, the old primary's lease must not live on our echoes.
        mute(turn)
    turn.set(
        bids=(*mirror.bids, record) if record not in mirror.bids else mirror.bids,
        bidding=True,
        bid_since=mirror.bid_since if mirror.bid_since is not None else turn.now,
        retry_at=None,
    )
    turn.do(Bid(mirror.module, expected, record))


def lease(turn: Turn) -> None:
    """Tell the pulse whom the addresses depend on: everybody who may bid, now or when a bid lands (T1)."""
    mirror = turn.mirror
    if mirror.held is None:
        return
    members = mirror.required - {mirror.me}
    if members != mirror.leased:
        turn.set(leased=members)
        turn.do(Lease(mirror.module, mirror.held.epoch, members))


def store(turn: Turn) -> None:
    """Make epoch and wish durable; what follows in this decision depends on it."""
    turn.do(StoreModule(turn.mirror.module, turn.mirror.epoch, turn.mirror.wanted))


# --- learning -------------------------------------------------------------------------------------------


def register_answered(turn: Turn, record: Record | None) -> None:
    """A linearizable read came back."""
    turn.set(reading=False, check_at=turn.at_the_latest(HEALTH_PERIOD_S))
    mirror = turn.mirror
    if mirror.offline:
        _found_while_offline(turn, record)
    elif record is None:
        _found_empty(turn)
    elif is_stale(mirror, record):
        _found_restored(turn, record)
    else:
        if mirror.register is Register.SILENT:
            turn.tell("HF2011", "the register answers again")
        turn.set(register=Register.ANSWERS, first=False)
        learn(turn, record, proved=True)


def register_silent(turn: Turn) -> None:
    """A read had no answer; a healthy mirror goes on without."""
    if turn.mirror.register is not Register.SILENT:
        turn.tell(
            "HF2002", "the register does not answer: nothing stops, but no role can change until it does"
        )
    turn.set(
        reading=False,
        register=Register.SILENT,
        retry_at=turn.at_the_latest(turn.mirror.timings.retry_s),
        # Also where nothing needs it now: no role is handed over while it is believed to be silent.
        check_at=turn.at_the_latest(slow(turn.mirror)),
    )


def bid_answered(turn: Turn, bid: Record, outcome: Outcome, current: Record | None) -> None:
    """What became of a bid; nothing is concluded that a record does not prove."""
    turn.set(bidding=False, widening=frozenset())
    match outcome:
        case Outcome.WON:
            turn.set(register=Register.ANSWERS, check_at=turn.at_the_latest(HEALTH_PERIOD_S))
            if not is_stale(turn.mirror, bid):
                learn(turn, bid, proved=True)
        case Outcome.LOST if current is not None:
            register_answered(turn, current)
            turn.set(retry_at=turn.at_the_latest(turn.mirror.timings.retry_s))
        case _:
            turn.set(retry_at=turn.at_the_latest(turn.mirror.timings.retry_s))
            if outcome is Outcome.UNKNOWN and turn.mirror.register is not Register.SILENT:
                turn.tell("HF2003", f"a bid for epoch {bid.epoch} had no answer; it is asked again")


def learn(turn: Turn, record: Record, proved: bool) -> None:
    """Take in a record; a higher epoch is durable before anything is done under it."""
    mirror = turn.mirror
    known = mirror.record
    assert not is_stale(mirror, record)
    if not mirror.stored:
        # The epoch is known and not durable yet: nothing is done under it before it is.
        store(turn)
    if known is not None and record.epoch < known.epoch:
        return
    if known is not None and record.epoch == known.epoch and mirror.proved and not proved:
        return
    turn.set(record=record, proved=proved)
    if record.epoch > mirror.epoch:
        turn.set(epoch=record.epoch)
        store(turn)
    if proved:
        _resolve(turn, record)


def _resolve(turn: Turn, record: Record) -> None:
    """Drop the bids that this record decides; take its reign when it is ours."""
    mirror = turn.mirror
    pending = tuple(bid for bid in mirror.bids if not proves(bid, record))
    if len(pending) == len(mirror.bids) and (mirror.held is None or record.epoch == mirror.held.epoch):
        return
    turn.set(bids=pending)
    if not pending:
        turn.set(bid_since=None, force=False, accept_loss=False, widening=frozenset())
    held = mirror.held
    if held is None and len(pending) < len(mirror.bids):
        # The tag has moved past every bid of this life, those of a former agent too: none can land any more.
        turn.set(required=_pending_sets(turn.mirror))
    if held is not None and record.epoch > held.epoch and may_open(mirror, record):
        turn.set(held=record, taking=True, shut=False, required=record.in_sync | _pending_sets(turn.mirror))
        for name in held.in_sync - record.in_sync:
            turn.peer(name, broken=False, ready=None)
        if mirror.stage is Stage.HANDING:
            turn.set(stage=Stage.OPENING, ending="", heir=None, heir_life=None)
        turn.do(TakeReign(mirror.module, record))
        turn.become(role_under(mirror, record))


def _pending_sets(mirror: Mirror) -> frozenset[NodeName]:
    return frozenset().union(*(bid.in_sync for bid in mirror.bids))


def role_under(mirror: Mirror, record: Record) -> Role:
    """PRIM with a member beside, ALONE without."""
    return Role.PRIM if record.in_sync - {mirror.me} else Role.ALONE


def _found_empty(turn: Turn) -> None:
    mirror = turn.mirror
    if mirror.epoch > NEVER:
        if mirror.register is not Register.RESTORED:
            turn.tell(
                "HF2012", f"the register holds no record, this node knows epoch {mirror.epoch}: it was lost"
            )
        turn.set(register=Register.RESTORED, retry_at=turn.at_the_latest(slow(mirror)))
        _make_again(turn, None)
        return
    turn.set(register=Register.EMPTY, retry_at=turn.at_the_latest(slow(mirror)))


def _found_restored(turn: Turn, record: Record) -> None:
    mirror = turn.mirror
    if mirror.register is not Register.RESTORED:
        turn.tell(
            "HF2012",
            f"the register answers epoch {record.epoch}, this node knows {mirror.epoch}: it was restored "
            "from an old copy; no role changes until an operator repairs it",
        )
    turn.set(register=Register.RESTORED, retry_at=turn.at_the_latest(slow(mirror)))
    _make_again(turn, record)


def _make_again(turn: Turn, stored: Record | None) -> None:
    """By the operator's order: the record that a lost register lacks, above every epoch that this node knows.

    A node that serves keeps its members: they hold everything that it acknowledged.
    """
    mirror = turn.mirror
    if not mirror.accept_loss or mirror.bidding or mirror.life is None or mirror.failed:
        return
    wish = Record(
        cluster=mirror.cluster,
        module=mirror.module,
        epoch=Epoch(mirror.epoch + 1),
        primary=mirror.me,
        in_sync=mirror.held.in_sync if mirror.held is not None else frozenset({mirror.me}),
        nodes=mirror.nodes,
        nonce=mirror.life,
        revision=mirror.revision,
        forced=True,
        reason="made again after the register was lost",
    )
    bid(turn, stored, wish)


def _found_while_offline(turn: Turn, record: Record | None) -> None:
    """The register is back and this node serves by order: only the next order makes it the record."""
    mirror = turn.mirror
    assert mirror.held is not None
    if mirror.register is Register.SILENT:
        turn.tell("HF1216", "the register answers again: order `hafarm promote` once more to keep this side")
    turn.set(register=Register.ANSWERS)
    if not mirror.force or mirror.bidding or mirror.life is None:
        return
    base = mirror.held if record is None or record.epoch < mirror.held.epoch else record
    wish = base.following(
        primary=mirror.me,
        in_sync=frozenset({mirror.me}),
        nonce=mirror.life,
        forced=True,
        reason="source named",
    )
    turn.set(offline=False)
    bid(turn, record, wish)


def slow(mirror: Mirror) -> float:
    """Between two reads while nothing here can change anything: a read each two seconds costs nothing."""
    return max(2.0, mirror.timings.retry_s)


# --- what the primary's set should be -------------------------------------------------------------------


def given_up(mirror: Mirror, name: NodeName) -> bool:
    """The primary goes on without this member."""
    peer = mirror.peers.get(name)
    if peer is None:
        return False
    leaving = peer.said is not None and peer.said.leaving
    return peer.broken or leaving or peer.reach in (Reach.SUSPECT, Reach.LOST, Reach.LEFT)


def target_set(mirror: Mirror) -> frozenset[NodeName]:
    """Who should be in sync: the members that are not given up, and the joiners that are ready."""
    assert mirror.held is not None
    kept = {name for name in mirror.held.in_sync if name == mirror.me or not given_up(mirror, name)}
    joined = {
        name
        for name, peer in mirror.peers.items()
        if name in mirror.nodes
        and peer.ready is not None
        and peer.reach is Reach.ALIVE
        and not given_up(mirror, name)
    }
    return frozenset(kept | joined)


def keep_set(turn: Turn) -> None:
    """The primary's duty: bid until the record names whom the gate can and must count on."""
    mirror = turn.mirror
    held = mirror.held
    if held is None or mirror.bidding or mirror.taking or mirror.offline or mirror.life is None:
        return
    if mirror.register is Register.RESTORED or mirror.stage in (Stage.DRAINING, Stage.HANDING):
        return
    target = target_set(mirror)
    if target == held.in_sync and not mirror.bids and mirror.required <= held.in_sync:
        return
    urgent = not any(bid.in_sync == target and bid.primary == mirror.me for bid in mirror.bids)
    if mirror.retry_at is not None and mirror.retry_at > turn.now and not urgent:
        return
    if not mirror.stored or not may_bid(mirror, held):
        return
    assert mirror.me in target
    reason = "member lost" if held.in_sync - target else "member joined"
    bid(turn, held, held.following(primary=mirror.me, in_sync=target, nonce=mirror.life, reason=reason))


def create(turn: Turn) -> None:
    """Make the first record, by the operator's order."""
    mirror = turn.mirror
    assert mirror.life is not None
    assert mirror.epoch == NEVER
    bid(
        turn,
        None,
        Record(
            cluster=mirror.cluster,
            module=mirror.module,
            epoch=Epoch(1),
            primary=mirror.me,
            in_sync=frozenset({mirror.me}),
            nodes=mirror.nodes,
            nonce=mirror.life,
            revision=mirror.revision,
            reason="created by the operator",
        ),
    )


def mute(turn: Turn) -> None:
    """Echo nothing that another primary's lease could live on."""
    if turn.mirror.muted is not True:
        turn.set(muted=True)
        turn.do(Mute(turn.mirror.module))


def unmute(turn: Turn) -> None:
    """Echo again: no take-over bid of ours is out any more."""
    if turn.mirror.muted is not False:
        turn.set(muted=False)
        turn.do(Unmute(turn.mirror.module))
