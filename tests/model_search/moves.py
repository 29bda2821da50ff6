"""Every step that the world may take next: what any node may learn, lose, write, sync or suffer."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from orchestrator.mirror import machine
from orchestrator.mirror.state import Mirror, Reach
from orchestrator.model.config import ClusterConfig
from orchestrator.model.effects import Effect
from orchestrator.model.events import (
    BidAnswered,
    MemberReady,
    OperatorAsked,
    PeerAlive,
    PeerLost,
    RegisterAnswered,
    RegisterSilent,
    ReignOffered,
    TimePassed,
)
from orchestrator.model.names import NodeName, RequestId
from orchestrator.model.orders import Order
from orchestrator.model.record import Outcome, Record
from orchestrator.model.report import ModuleState
from orchestrator.model.timings import derive
from tests.model_search import replica
from tests.model_search.hands import Died, Turn
from tests.model_search.values import Confirmed, Frame, Hint, Mirrors, Node, Request, plain
from tests.support.brief import brief


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of each thing one search lets happen."""

    epochs: int
    """So many records beyond the first one; bids beyond it never land."""
    writes: int
    crashes: int
    losses: int
    """Verdicts that a peer is lost, true or false."""
    hints: int = 0
    """Times that one node hears another's new state by heartbeat; the stream tells of reigns anyway."""
    orders: int = 0
    outages: int = 0
    wipes: int = 0
    """Times that the register loses everything."""
    deaths: tuple[str, ...] = ("agent", "power")
    ordered: tuple[Order, ...] = ()
    late_reads: bool = False

    def with_(self, **changes: Any) -> Bounds:
        """These bounds with others in some respects."""
        return replace(self, **changes)


class Local(NamedTuple):
    """One step of one node alone."""

    label: str
    node: Node
    sent: tuple[Request, ...]
    facts: tuple[replica.Fact, ...]
    cost: str
    log: tuple[Effect | str, ...]


class Both(NamedTuple):
    """One step of two nodes: the first one's turn, then what the other one becomes."""

    label: str
    nodes: tuple[Node, Node]
    sent: tuple[Request, ...]
    facts: tuple[replica.Fact, ...]
    cost: str
    log: tuple[Effect | str, ...]
    met: str = ""
    """How a stream began between them: what was under way on a former one is gone."""


class Moves:
    """The steps of single nodes and of pairs; the search joins them to steps of the world."""

    def __init__(self, config: ClusterConfig, bounds: Bounds) -> None:
        self.config = config
        self.bounds = bounds
        self.mirrors = Mirrors()
        self.module = config.mirrors[0].name
        self.names = config.mirrors[0].nodes
        self.hinting = True
        """On the way to the first state everybody hears everybody."""
        self._timings = derive(config.timing)
        self._said: dict[int, ModuleState] = {}

    def create(self, me: NodeName) -> Mirror:
        return machine.create(me, self.config, self.config.mirrors[0], self._timings)

    def turn(self, me: NodeName, node: Node, dies_after: int | None = None) -> Turn:
        return Turn(self.mirrors, self.create, self.module, node, me, dies_after)

    def do(
        self, me: NodeName, node: Node, label: str, deed: Callable[[Turn], object], cost: str = ""
    ) -> Iterator[Local]:
        """The step; and, for each place between two of its effects, the same step cut short by a death."""
        turn = self.turn(me, node)
        try:
            deed(turn)
        except AssertionError as fault:
            place = traceback.extract_tb(fault.__traceback__)[-1]
            turn.facts.append(("assertion", f"{me}: its machine's own `{place.line}` fails in {place.name}"))
            yield Local(label, node, (), tuple(turn.facts), cost, tuple(turn.log))
            return
        yield self._local(label, turn, cost)
        if self.bounds.crashes and cost != "crashes":
            for after in range(1, turn.did):
                yield from self._cut_short(me, node, label, deed, cost, after)

    def _cut_short(
        self, me: NodeName, node: Node, label: str, deed: Callable[[Turn], object], cost: str, after: int
    ) -> Iterator[Local]:
        for death in self.bounds.deaths:
            if death == "keeper":
                continue  # A gate dies beside its agent, not within the agent's deeds.
            turn = self.turn(me, node, after)
            try:
                deed(turn)
            except Died:
                turn.log.append(f"its {death} dies after {after} of these")
                kill(turn, death)
                yield self._local(f"{label}, and its {death} dies", turn, f"{cost} crashes".strip())

    def _local(self, label: str, turn: Turn, cost: str) -> Local:
        return Local(label, turn.node, tuple(turn.sent), tuple(turn.facts), cost, tuple(turn.log))

    # --- one node -----------------------------------------------------------------------------------------

    def alone(self, me: NodeName, node: Node) -> Iterator[Local]:
        """What this node may do or suffer, whatever the others are."""
        mirror = self.mirrors.values[node.mirror]
        if mirror.deadline() is not None:
            yield from self.do(me, node, f"{me}: time passes", lambda turn: turn.tell(TimePassed()))
        yield from self._of_the_register(me, node, mirror)
        yield from self._of_the_gate(me, node, mirror)
        for name, peer in mirror.peers.items():
            if peer.reach is Reach.ALIVE:
                yield from self.do(me, node, f"{me} loses {name}", _told(PeerLost(name)), "losses")
            else:
                yield from self.do(me, node, f"{me} hears {name} again", _told(PeerAlive(name)))
        for order in self.bounds.ordered:
            asked = OperatorAsked(RequestId("r"), self.module, order)
            yield from self.do(me, node, f"operator at {me}: {order}", _told(asked), "orders")
        for death in self.bounds.deaths:
            if death != "keeper" or node.keeper is not None:
                yield from self.do(
                    me, node, f"{me}: {death} dies", lambda turn, d=death: kill(turn, d), "crashes"
                )

    def _of_the_register(self, me: NodeName, node: Node, mirror: Mirror) -> Iterator[Local]:
        if mirror.reading:
            label = f"{me} gets no answer to its read"
            yield from self.do(
                me, node._replace(seen=None), label, _told(RegisterSilent(self.module)), "outages"
            )
        if node.seen is not None:
            answer = RegisterAnswered(self.module, node.seen[0])
            yield from self.do(me, node._replace(seen=None), f"{me} learns what it read", _told(answer))
        if node.call is not None:
            record = node.call.record
            heard = node._replace(call=None)
            silent = BidAnswered(self.module, record, Outcome.UNKNOWN)
            yield from self.do(me, heard, f"{me} gets no answer to its bid", _told(silent))
            if node.call.landed:
                won = BidAnswered(self.module, record, Outcome.WON)
                yield from self.do(me, heard, f"{me} learns that its bid won", _told(won))

    def _of_the_gate(self, me: NodeName, node: Node, mirror: Mirror) -> Iterator[Local]:
        if _unsynced(node):
            yield from self.do(me, node, f"{me} syncs its disk", replica.sync)
        keeper = node.keeper
        if keeper is None:
            return
        if keeper.taking is not None:
            yield from self.do(me, node, f"{me}: its gate takes the reign", replica.take)
        if keeper.draining:
            yield from self.do(me, node, f"{me}: its gate is drained", replica.drained)
        assert not keeper.is_open or keeper.record is not None
        members = keeper.record.in_sync if keeper.record else frozenset()
        for name, ready in keeper.sessions:
            # Told again and again until the machine knows: the event may be late as long as it likes.
            if ready and keeper.is_open and name not in members and mirror.peers[name].ready is None:
                told = _told(MemberReady(self.module, name, keeper.life))
                yield from self.do(me, node, f"{me}: {name} is ready", told)

    def may_write(self, node: Node) -> bool:
        keeper = node.keeper
        return keeper is not None and keeper.is_open and not keeper.draining

    def write(self, me: NodeName, node: Node, value: int) -> Iterator[Local]:
        yield from self.do(
            me, node, f"{me} writes {value}", lambda turn: replica.write(turn, value), "writes"
        )

    # --- one node and the register ------------------------------------------------------------------------

    def read(self, me: NodeName, node: Node, register: Record | None) -> Iterator[Local]:
        """A read that is answered; late only where the search asks for it."""
        mirror = self.mirrors.values[node.mirror]
        if mirror.reading and node.seen is None:
            if self.bounds.late_reads:
                yield Local(f"the register is read for {me}", node._replace(seen=(register,)), (), (), "", ())
            else:
                answer = RegisterAnswered(self.module, register)
                yield from self.do(me, node, f"{me} reads the register", _told(answer))
        call = node.call
        if call is not None and not call.landed and not can_land(call.expected, register):
            lost = BidAnswered(self.module, call.record, Outcome.LOST, register)
            yield from self.do(me, node._replace(call=None), f"{me} learns that its bid lost", _told(lost))

    # --- two nodes ----------------------------------------------------------------------------------------

    def between(self, me: NodeName, node: Node, other: NodeName, its: Node) -> Iterator[Both]:
        """What these two may do with each other, the first one's turn."""
        mine, theirs = node.keeper, its.keeper
        if (
            theirs is not None
            and replica.may_meet(node, me, its)
            and (theirs.source != me or not _streams(mine, other))
        ):
            yield from self._meet(me, node, other, its)
        if mine is not None:
            yield from self._end_streams(me, node, other, its)
            yield from self._offer(me, node, other, its)
        if self.hinting:
            yield from self._hint(me, node, other, its)

    def _hint(self, me: NodeName, node: Node, other: NodeName, its: Node) -> Iterator[Both]:
        state = self._said.get(its.mirror)
        if state is None:
            state = self._said[its.mirror] = self.mirrors.values[its.mirror].state()
        peer = self.mirrors.values[node.mirror].peers[other]
        if peer.reach is Reach.ALIVE and peer.said != plain(state):
            for move in self.do(
                me, node, f"{me} hears what {other} says", _told(Hint(other, state)), "hints"
            ):
                yield _both(move, its)

    def _meet(self, me: NodeName, node: Node, other: NodeName, its: Node) -> Iterator[Both]:
        assert node.keeper is not None
        assert its.keeper is not None
        how = replica.verdict(node, its, other)
        turn = self.turn(me, node)
        replica.meet_as_primary(turn, other, how)
        met = turn.node
        if how in ("unproven", "refused"):
            # Said once: the machine knows it until the stream or the set has changed.
            if met != node:
                yield Both(
                    f"{me} meets {other}: {how}", (met, its), tuple(turn.sent),
                    tuple(turn.facts), "", tuple(turn.log), "",
                )  # fmt: skip
            return
        member = self.turn(other, its)
        replica.meet_as_member(member, me, how, node)
        yield Both(
            f"a stream from {me} to {other} begins ({how})", (met, member.node), (*turn.sent, *member.sent),
            (*turn.facts, *member.facts), "", (*turn.log, *member.log), how,
        )  # fmt: skip

    def _end_streams(self, me: NodeName, node: Node, other: NodeName, its: Node) -> Iterator[Both]:
        mine, theirs = node.keeper, its.keeper
        assert mine is not None
        if mine.source == other and not _streams(theirs, me):
            for move in self.do(me, node, f"{me}: the stream from {other} ended", replica.leave_source):
                yield _both(move, its)
        if _streams(mine, other) and (theirs is None or theirs.source != me):
            label = f"{me}: the stream to {other} ended"
            for move in self.do(me, node, label, lambda turn: replica.end_session(turn, other)):
                yield _both(move, its)

    def _offer(self, me: NodeName, node: Node, other: NodeName, its: Node) -> Iterator[Both]:
        """The primary that is followed tells of its newer record."""
        mine, theirs = node.keeper, its.keeper
        assert mine is not None
        if mine.source != other or not _streams(theirs, me) or mine.following is None or theirs is None:
            return
        record = theirs.record
        if theirs.is_open and record is not None and record.epoch > mine.following.epoch:
            told = _told(ReignOffered(self.module, record))
            for move in self.do(me, node, f"{me} is offered {brief(record)}", told):
                if move.node != node:
                    yield _both(move, its)

    def deliver(self, me: NodeName, node: Node, frame: Frame, source_epoch: int) -> Iterator[Local]:
        """A write reaches a member."""
        if node.keeper is not None and replica.fits(node.keeper, frame, source_epoch):
            label = f"{me} applies {frame.value} (number {frame.seq}, epoch {frame.epoch})"
            yield from self.do(me, node, label, lambda turn: replica.apply(turn, frame))

    def confirm(self, me: NodeName, node: Node, confirmed: Confirmed) -> Iterator[Local]:
        """A member's confirmation reaches the gate."""
        keeper = node.keeper
        if keeper is not None and keeper.owns and keeper.stream == confirmed.stream:
            label = f"{me} hears that {confirmed.member} has number {confirmed.seq} on disk"
            yield from self.do(me, node, label, lambda turn: replica.confirm(turn, confirmed))


def kill(turn: Turn, death: str) -> None:
    """One of the three deaths."""
    match death:
        case "agent":
            turn.kill_agent()
        case "keeper":
            turn.kill_keeper()
        case _:
            turn.lose_power()


def can_land(expected: Record | None, register: Record | None) -> bool:
    """Whether the tag that a bid compares still stands; the register's own judgement comes after."""
    return (expected.reign if expected else None) == (register.reign if register else None)


def _unsynced(node: Node) -> bool:
    keeper = node.keeper
    if keeper is None:
        return node.memory != node.disk
    asked = keeper.source is not None and keeper.synced < keeper.seq
    return node.memory != node.disk or asked or not all(local for *_, local in keeper.points)


def _told(event: object) -> Callable[[Turn], object]:
    return lambda turn: turn.tell(event)  # type: ignore[arg-type]


def _both(move: Local, its: Node) -> Both:
    return Both(move.label, (move.node, its), move.sent, move.facts, move.cost, move.log)


def _streams(keeper: object, name: NodeName) -> bool:
    return keeper is not None and any(session[0] == name for session in keeper.sessions)  # type: ignore[attr-defined]
