"""The primary's way: open the gate, claim the addresses, start the application; and the way back."""

from __future__ import annotations

from orchestrator.mirror.bids import bid, lease, mute, read, role_under, store
from orchestrator.mirror.state import Ending, Mirror, Reach, Register, Stage
from orchestrator.mirror.turn import Turn
from orchestrator.model.config import ACK_MEMORY
from orchestrator.model.effects import (
    ClaimAddresses,
    CloseGate,
    ReleaseAddresses,
    StartApplication,
    StopApplication,
    StopReplicator,
    TakeReign,
)
from orchestrator.model.names import Instant, NodeName
from orchestrator.model.record import Record
from orchestrator.model.report import Role

REST_S = 30.0
"""Between attempts once the restart budget is spent and no other node can serve: slow enough to be read."""
RETRY_S = 1.0
"""Before an application that died is started again, and between two claims of an address."""
REFUSALS_MAX = 3
"""Refused claims in a row after which another node gets the role; one may be a race with its release."""
OVERLAP_MARGIN_S = 2.0
"""With `overlap: none` a successor waits T and this much more: the old side's kill and its scheduling."""


SWAP = "swap"
TAKEOVER = "take-over"
PROMOTED = "promoted by the operator"
PROMOTED_OFFLINE = "promoted by the operator without the register"
ORDERED = frozenset({PROMOTED, PROMOTED_OFFLINE})
MAY_OVERLAP = ORDERED | {TAKEOVER}
"""Reasons of records that are won while another node may still be serving."""


def open_gate(turn: Turn, record: Record) -> None:
    """Become primary under a proved record."""
    mirror = turn.mirror
    assert record.primary == mirror.me
    assert record.nonce == mirror.life
    assert not mirror.failed
    turn.set(
        held=record,
        taking=True,
        required=record.in_sync,
        shut=False,
        stage=Stage.OPENING,
        following=None,
        offline=mirror.offline,
        force=False,
        accept_loss=False,
        again_at=others_end(turn, record),
    )
    mute(turn)
    turn.forget_streams()
    turn.become(role_under(mirror, record))
    turn.do(TakeReign(mirror.module, record))
    if turn.mirror.again_at is None:
        # While the gate opens: clients find nobody there yet, and the application need not wait for both.
        _claim(turn)


def others_end(turn: Turn, record: Record) -> Instant | None:
    """When the former primary is silent for certain; None: it is already."""
    mirror = turn.mirror
    takeover = record.reason in MAY_OVERLAP
    # A swap's record was bid after everything had ended there; what is heard of it may be older.
    serves = record.reason != SWAP and another_serves(mirror)
    if mirror.overlap == "none" and (takeover or serves):
        return turn.at_the_latest(mirror.timings.detection_s + OVERLAP_MARGIN_S)
    ordered = record.reason in ORDERED and not all(peer.gone for peer in mirror.peers.values())
    if serves or ordered or (takeover and mirror.muted is not True):
        # The bid landed late, after we had begun to echo again, perhaps a former agent's: T counts from here.
        # So it does after an order that waited for nobody's silence: a lease may still live on our last echo.
        return turn.at_the_latest(mirror.timings.detection_s)
    return None


def another_serves(mirror: Mirror) -> bool:
    """As far as is heard."""
    return any(
        peer.said is not None and peer.said.serving and not peer.gone for peer in mirror.peers.values()
    )


def reign_taken(turn: Turn, record: Record) -> None:
    """The gate is open under this record."""
    mirror = turn.mirror
    if mirror.held is None or record.epoch != mirror.held.epoch:
        return
    turn.set(taking=False)
    lease(turn)
    if mirror.stage is Stage.OPENING:
        turn.set(stage=Stage.OVERLAP)
        if mirror.overlap == "none" and mirror.again_at is None and _lacks_a_member(mirror):
            # The gate may have opened late, on a disk that hung, and another node may have got the role
            # meanwhile: the bid without the silent member is won by then, or the role is given up.
            turn.set(again_at=turn.at_the_latest(mirror.timings.detection_s + OVERLAP_MARGIN_S))
        go_on(turn)
        label = f"; {ACK_MEMORY}" if mirror.ack == "memory" else ""
        turn.tell("HF1101", f"{mirror.role.value} under epoch {record.epoch}: {record.reason}{label}")


def _lacks_a_member(mirror: Mirror) -> bool:
    """Somebody who may bid is not heard."""
    assert mirror.held is not None
    members = [peer for name, peer in mirror.peers.items() if name in mirror.held.in_sync]
    return any(peer.reach in (Reach.SUSPECT, Reach.LOST) for peer in members)


def go_on(turn: Turn) -> None:
    """From an open gate towards a serving application, one step after the other."""
    mirror = turn.mirror
    if mirror.stage is Stage.OVERLAP:
        if mirror.again_at is not None and mirror.again_at > turn.now:
            return
        turn.set(stage=Stage.CLAIMING, again_at=None)
        if mirror.claimed:
            _start(turn)
        elif not mirror.claiming:
            _claim(turn)


def _claim(turn: Turn) -> None:
    mirror = turn.mirror
    assert mirror.held is not None
    turn.set(again_at=None, claiming=True)
    turn.do(ClaimAddresses(mirror.module, mirror.held.epoch))
    # Beside it: until the lease is there the address is silent.
    lease(turn)


def addresses_claimed(turn: Turn) -> None:
    """The addresses are here: now the application may begin."""
    if not turn.mirror.claiming:
        return  # ordered before the role was given up: their release is on its way behind it
    turn.set(claimed=True, claiming=False, refusals=0)
    if turn.mirror.stage is Stage.CLAIMING:
        _start(turn)


def addresses_refused(turn: Turn, why: str) -> None:
    """Try again; after some refusals another node gets its chance."""
    turn.tell("HF3001", f"virtual IP: {why}")
    turn.set(claiming=False)
    if turn.mirror.stage not in (Stage.OPENING, Stage.CLAIMING):
        return
    turn.set(refusals=turn.mirror.refusals + 1, again_at=turn.at_the_latest(RETRY_S))
    if turn.mirror.refusals >= REFUSALS_MAX and turn.mirror.stage is Stage.CLAIMING:
        turn.set(refusals=0)
        hand_over(turn, "its addresses are refused here")


def _start(turn: Turn) -> None:
    mirror = turn.mirror
    assert mirror.held is not None
    turn.set(again_at=None)
    if mirror.running:
        turn.set(stage=Stage.SERVING)
        return
    turn.set(stage=Stage.STARTING)
    turn.do(StartApplication(mirror.module, mirror.held.epoch))


def application_started(turn: Turn) -> None:
    """The service is there."""
    turn.set(running=True)
    if turn.mirror.stage is Stage.STARTING:
        turn.set(stage=Stage.SERVING)
        turn.tell("HF1102", "the application runs")


def application_failed(turn: Turn, why: str) -> None:
    """It died, or did not start: again here while the budget lasts, then the other node gets its chance."""
    turn.set(running=False)
    if turn.mirror.stage not in (Stage.STARTING, Stage.SERVING):
        return
    turn.tell("HF1110", f"the application failed: {why}")
    _again_or_elsewhere(turn)


def _again_or_elsewhere(turn: Turn) -> None:
    mirror = turn.mirror
    budget, allowed = mirror.budget.spend(turn.now)
    turn.set(budget=budget, worn=not allowed)
    if allowed:
        turn.set(stage=Stage.RESTING, again_at=turn.at_the_latest(RETRY_S))
    elif not hand_over(turn, "the restart budget is spent here"):
        turn.set(stage=Stage.RESTING, again_at=turn.at_the_latest(REST_S))


def check_failed(turn: Turn, check: str, action: str) -> None:
    """A check's verdict on the running application."""
    mirror = turn.mirror
    if mirror.stage is not Stage.SERVING:
        return
    turn.tell("HF1111", f"check {check} failed: {action}")
    match action:
        case "restart":
            budget, allowed = mirror.budget.spend(turn.now)
            turn.set(budget=budget, worn=not allowed)
            if allowed or not hand_over(turn, f"check {check} fails and the restart budget is spent"):
                restart(turn)
        case "swap":
            if not hand_over(turn, f"check {check} fails"):
                restart(turn)
        case "stop":
            turn.set(wanted=False)
            store(turn)
            end(turn, "stop")
        case _:
            pass


def restart(turn: Turn) -> None:
    """Stop and start the application in place."""
    turn.set(stage=Stage.RESTARTING)
    turn.do(StopApplication(turn.mirror.module, force=False))


def hand_over(turn: Turn, why: str) -> bool:
    """Give the role to another node that is in sync and fit, when there is one and the register answers."""
    mirror = turn.mirror
    heir = mirror.fit_heir()
    if heir is None or mirror.register is not Register.ANSWERS or not can_end_now(mirror):
        return False
    turn.tell("HF1103", f"the role goes to {heir}: {why}")
    turn.set(heir=heir)
    end(turn, "swap")
    return True


def can_end_now(mirror: Mirror) -> bool:
    """R8: a planned departure begins only when nothing of ours is undecided at the register."""
    held = mirror.held
    return held is not None and not mirror.bids and not mirror.taking and mirror.required == held.in_sync


def end(turn: Turn, ending: Ending) -> None:
    """Begin a planned end: the addresses go first, so that no client reaches a stopping application."""
    module = turn.mirror.module
    turn.set(stage=Stage.ENDING, ending=ending, again_at=None, claimed=False, claiming=False, leased=None)
    turn.do(ReleaseAddresses(module), StopApplication(module, force=False))


def application_stopped(turn: Turn, clean: bool) -> None:
    """Nothing of it lives any more."""
    mirror = turn.mirror
    turn.set(running=False)
    match mirror.stage:
        case Stage.RESTARTING:
            _start(turn)
        case Stage.ENDING:
            if not clean:
                turn.tell("HF1112", "the application did not stop in its time and was killed")
            said = mirror.peers[mirror.heir].said if mirror.heir is not None else None
            turn.set(stage=Stage.DRAINING, heir_life=said.life if said is not None else None)
            turn.do(CloseGate(mirror.module, drain=True))
        case _:
            pass


def gate_closed(turn: Turn, equal: frozenset[NodeName]) -> None:
    """The planned end goes on: everything that was written is where it must be, or the role stays here."""
    mirror = turn.mirror
    if mirror.stage is not Stage.DRAINING:
        # A former agent ordered it, and nobody goes on with what it had begun: the role stays here.
        turn.set(shut=mirror.held is not None and mirror.stage is not Stage.HANDING)
        return
    assert mirror.held is not None
    if mirror.ending == "stop":
        close(turn)
        halt(turn)
    elif mirror.heir in equal and mirror.has_heir():
        turn.set(stage=Stage.HANDING, retry_at=None)
        if not mirror.bidding:
            hand(turn, equal)
    else:
        turn.tell("HF1104", f"{mirror.heir} is not equal any more: the role stays here")
        if mirror.bids:
            # A member was lost meanwhile and the bid without it is out: its outcome opens the gate again.
            turn.set(stage=Stage.HANDING, heir=None, heir_life=None)
        else:
            reopen(turn)


def hand(turn: Turn, equal: frozenset[NodeName]) -> None:
    """R8: one bid that names the other node's gate, and keeps both in sync."""
    mirror = turn.mirror
    assert mirror.held is not None
    assert mirror.heir is not None
    assert mirror.heir_life is not None
    in_sync = mirror.held.in_sync & (equal | {mirror.me})
    record = mirror.held.following(primary=mirror.heir, in_sync=in_sync, nonce=mirror.heir_life, reason=SWAP)
    bid(turn, mirror.held, record)


def keep_handing(turn: Turn) -> None:
    """A hand-over that is not decided is asked again; an heir that is gone loses its claim."""
    mirror = turn.mirror
    if mirror.stage is not Stage.HANDING or mirror.bidding or mirror.held is None or not mirror.stored:
        return
    if mirror.retry_at is not None and mirror.retry_at > turn.now:
        return
    if mirror.has_heir():
        hand(turn, mirror.held.in_sync)
    else:
        assert mirror.life is not None
        alone = mirror.held.following(in_sync=frozenset({mirror.me}), nonce=mirror.life, reason="heir lost")
        bid(turn, mirror.held, alone)


def reopen(turn: Turn) -> None:
    """Serve on under the record that we still hold; the same life, and nothing was bid."""
    mirror = turn.mirror
    assert mirror.held is not None
    assert not mirror.bids
    turn.set(stage=Stage.OPENING, taking=True, shut=False, ending="", heir=None, heir_life=None)
    turn.do(TakeReign(mirror.module, mirror.held))


def open_what_was_shut(turn: Turn) -> None:
    """The same beneath a role that goes on as it is; while a bid is out, its outcome opens the gate."""
    mirror = turn.mirror
    planned = mirror.stage in (Stage.ENDING, Stage.DRAINING, Stage.HANDING)
    if mirror.held is not None and mirror.shut and not mirror.taking and not mirror.bids and not planned:
        turn.set(taking=True, shut=False)
        turn.do(TakeReign(mirror.module, mirror.held))


def close(turn: Turn) -> None:
    """Forget the role; the gate is closed and the application has ended."""
    turn.set(
        held=None,
        taking=False,
        shut=False,
        required=frozenset(),
        stage=Stage.IDLE,
        ending="",
        heir=None,
        heir_life=None,
        claimed=False,
        claiming=False,
        leased=None,
        again_at=None,
        bid_since=None,
        refusals=0,
        offline=False,
    )
    turn.forget_streams()
    turn.become(Role.WAIT)


def halt(turn: Turn) -> None:
    """End the replicator; the directory becomes plain files again."""
    if not turn.mirror.halting:
        turn.set(halting=True)
        turn.do(StopReplicator(turn.mirror.module))


def demote(turn: Turn, why: str) -> None:
    """Lose the role at once: nothing is acknowledged, nothing is answered, then the rest."""
    mirror = turn.mirror
    held = mirror.held
    assert held is not None
    turn.tell("HF1105", f"the role is given up: {why}")
    turn.do(
        CloseGate(mirror.module, drain=False),
        StopApplication(mirror.module, force=True),
        ReleaseAddresses(mirror.module),
    )
    turn.set(abandoned=held.epoch, running=False)
    close(turn)


def volume_failed(turn: Turn, why: str) -> None:
    """The disk costs the role at once; it is not believed again before an operator says so."""
    turn.set(failed=why)
    turn.tell("HF4001", f"the volume failed: {why}")
    if turn.mirror.held is not None:
        demote(turn, "the volume failed")


def link_lost(turn: Turn, interface: str) -> None:
    """A lost carrier: nobody reaches the service here."""
    turn.set(links_down=turn.mirror.links_down | {interface})
    turn.tell("HF3002", f"interface {interface} has no carrier")
    leave_dead_link(turn)


def leave_dead_link(turn: Turn) -> None:
    """Move the module away from a node whose link is dead, as soon as somebody can take it."""
    mirror = turn.mirror
    if mirror.links_down and mirror.on_link_loss == "move" and mirror.stage is Stage.SERVING:
        hand_over(turn, "the link is down here")


def due(turn: Turn) -> None:
    """What was put off and is due now."""
    mirror = turn.mirror
    if mirror.again_at is None or mirror.again_at > turn.now:
        return
    match mirror.stage:
        case Stage.OVERLAP:
            go_on(turn)
        case Stage.CLAIMING:
            _claim(turn)
        case Stage.RESTING:
            if mirror.worn and hand_over(turn, "the restart budget is spent here"):
                return
            turn.set(stage=Stage.CLAIMING)
            _claim(turn)
        case _:
            turn.set(again_at=None)


def watch_register(turn: Turn) -> None:
    """Look at the register now and then, so that its death is known before it matters."""
    mirror = turn.mirror
    if mirror.check_at is not None and mirror.check_at <= turn.now:
        turn.set(check_at=None)
        if mirror.held is not None:
            read(turn)
