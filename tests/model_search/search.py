"""Breadth first through every state within the bounds; the first violation found has the shortest story."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Generic, NamedTuple, TypeVar

from orchestrator.cluster.register import judge
from orchestrator.model.config import ClusterConfig
from orchestrator.model.effects import Answer, Effect, Tell
from orchestrator.model.names import NodeName
from orchestrator.model.record import Record
from tests.model_search import claims, replica
from tests.model_search.moves import Both, Bounds, Local, Moves, can_land
from tests.model_search.values import Confirmed, Frame, Ghost, Node, Request, Spent, World
from tests.support.brief import brief

Value = TypeVar("Value")


STATES_MAX: Final = 4_000_000
"""About half a kilobyte each with their memory of steps: what a machine of 4 GiB can hold."""


class Brief(NamedTuple):
    """Of a node, what is asked of each state."""

    disk: int
    serves: bool
    writes: bool


class Numbers(Generic[Value]):
    """Each value met so far under a number."""

    def __init__(self) -> None:
        self._numbers: dict[Value, int] = {}
        self.values: list[Value] = []

    def __call__(self, value: Value) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self.values)
            self.values.append(value)
        return number


class Step(NamedTuple):
    """What one step changes, by place: nodes by index, the rest as values to be joined."""

    label: str
    nodes: tuple[tuple[int, int], ...]
    sent: frozenset[Request]
    frames: frozenset[Frame]
    confirmed: frozenset[Confirmed]
    gone: tuple[NodeName, object] | None
    """A member and a stream: what it confirmed over a former connection cannot arrive over this one."""
    facts: tuple[replica.Fact, ...]
    cost: str
    log: tuple[Effect | str, ...]


@dataclass
class Found:
    """How a search ended."""

    states: int = 0
    steps: int = 0
    depth: int = 0
    exhausted: bool = False
    seconds: float = 0.0
    violation: str = ""
    story: list[str] = field(default_factory=list)


class Search:
    """All states that are reachable from one within the bounds."""

    def __init__(self, config: ClusterConfig, bounds: Bounds, ignored: Iterable[str] = ()) -> None:
        self.moves = Moves(config, bounds)
        self.bounds = bounds
        self.names = self.moves.names
        self.ignored = frozenset(ignored)
        """Claims that this search does not look at, so that a deeper one is found."""
        self.nodes: Numbers[Node] = Numbers()
        self.records: Numbers[Record | None] = Numbers()
        self.requests: Numbers[frozenset[Request]] = Numbers()
        self.frames: Numbers[frozenset[Frame]] = Numbers()
        self.confirmed: Numbers[frozenset[Confirmed]] = Numbers()
        self.ghosts: Numbers[Ghost] = Numbers()
        self.spent: Numbers[Spent] = Numbers()
        self.epoch_max = 0
        self._briefs: list[Brief] = []
        self._memo: dict[tuple[Any, ...], Any] = {}

    # --- the search ---------------------------------------------------------------------------------------

    def run(self, first: World, seconds: float = float("inf"), depth_max: int = 10**9) -> Found:
        """Search until everything is seen, a claim is violated, or the time or the memory is used up."""
        # What was decided on the way to the first state was decided by the rules as they were then.
        self._memo.clear()
        self.moves.mirrors.forget_decisions()
        self.moves.hinting = self.bounds.hints > 0
        found = Found()
        began = time.process_time()
        seen: dict[World, int] = {first: 0}
        order: list[World] = [first]
        parents = array("q", [-1])
        levels = [0, 1]
        at = 0
        while at < len(order) and not found.violation:
            if at == levels[-1]:
                if len(levels) > depth_max:
                    break
                levels.append(len(order))
            world = order[at]
            for label, after, wrong in self.next(world):
                found.steps += 1
                if wrong:
                    found.violation = wrong
                    found.story = self._story(order, parents, at, label)
                    break
                if after not in seen:
                    seen[after] = len(order)
                    order.append(after)
                    parents.append(at)
            at += 1
            if at % 1024 == 0 and (time.process_time() - began > seconds or len(order) > STATES_MAX):
                break
        found.states = len(order)
        found.exhausted = at == len(order) and not found.violation
        found.depth = len(levels) - 1 - found.exhausted
        found.seconds = time.process_time() - began
        return found

    def _story(self, order: list[World], parents: array[int], at: int, last: str) -> list[str]:
        path = [at]
        while parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        path.reverse()
        lines: list[str] = []
        for here, there in pairwise(path):
            step = next(
                step for step in self.steps(order[here]) if self.after(order[here], step) == order[there]
            )
            lines += told(step)
        step = next(
            step for step in self.steps(order[at]) if step.label == last and self.wrong_after(order[at], step)
        )
        return [*lines, *told(step)]

    def wrong_after(self, world: World, step: Step) -> str:
        return next((wrong for one, _, wrong in self.outcomes(world, [step]) if wrong), "")

    def next(self, world: World) -> Iterator[tuple[str, World, str]]:
        """Each state that may follow, and what is wrong with it."""
        return self.outcomes(world, self.steps(world))

    def outcomes(self, world: World, steps: Iterable[Step]) -> Iterator[tuple[str, World, str]]:
        for step in steps:
            wrong = self._wrong_in_itself(step)
            after = world if wrong else self.after(world, step)
            if after is None:
                continue
            if not wrong and after != world:
                wrong = self._wrong(after) or self._wrong_for_clients(world, step)
            yield step.label, after, wrong

    # --- steps --------------------------------------------------------------------------------------------

    def steps(self, world: World) -> Iterator[Step]:
        for index, node in enumerate(world.nodes):
            yield from self._cached(("alone", index, node), self._alone)
            yield from self._cached(("read", index, node, world.register), self._read)
            if self.facts(node).writes:
                yield from self._cached(
                    ("write", index, node, self.spent.values[world.spent].writes), self._write
                )
            for other, its in enumerate(world.nodes):
                if other != index:
                    yield from self._cached(("between", index, node, other, its), self._between)
        if self.frames.values[world.frames]:
            yield from self._cached(("frames", world.nodes, world.frames), self._deliver)
        if self.confirmed.values[world.confirmed]:
            yield from self._cached(("confirmed", world.nodes, world.confirmed), self._confirm)
        if self.requests.values[world.requests]:
            yield from self._cached(("land", world.nodes, world.register, world.requests), self._land)
        if world.register and self.bounds.wipes:
            yield Step(
                "the register loses everything",
                (),
                _NONE,
                _NONE,
                _NONE,
                None,
                (("record", None),),
                "wipes",
                (),
            )

    def facts(self, node: int) -> Brief:
        """Looked at so often that it is kept beside the node."""
        briefs = self._briefs
        while len(briefs) <= node:
            value = self.nodes.values[len(briefs)]
            serves = value.keeper is not None and value.keeper.is_open
            briefs.append(Brief(value.disk, serves, self.moves.may_write(value)))
        return briefs[node]

    def _cached(self, key: tuple[Any, ...], make: Any) -> tuple[Step, ...]:
        steps = self._memo.get(key)
        if steps is None:
            steps = self._memo[key] = tuple(make(*key[1:]))
        return steps  # type: ignore[no-any-return]

    def _alone(self, index: int, node: int) -> Iterator[Step]:
        for move in self.moves.alone(self.names[index], self.nodes.values[node]):
            yield self._step(index, move)

    def _read(self, index: int, node: int, register: int) -> Iterator[Step]:
        record = self.records.values[register]
        for move in self.moves.read(self.names[index], self.nodes.values[node], record):
            yield self._step(index, move)

    def _write(self, index: int, node: int, written: int) -> Iterator[Step]:
        for move in self.moves.write(self.names[index], self.nodes.values[node], written + 1):
            yield self._step(index, move)

    def _between(self, index: int, node: int, other: int, its: int) -> Iterator[Step]:
        names, nodes = self.names, self.nodes.values
        for move in self.moves.between(names[index], nodes[node], names[other], nodes[its]):
            yield self._both(index, other, move)

    def _deliver(self, nodes: tuple[int, ...], frames: int) -> Iterator[Step]:
        for frame in sorted(self.frames.values[frames], key=repr):
            index = self.names.index(frame.target)
            node = self.nodes.values[nodes[index]]
            epoch = 0
            if node.keeper is not None and node.keeper.source is not None:
                source = self.nodes.values[nodes[self.names.index(node.keeper.source)]].keeper
                sends = (
                    source is not None
                    and source.is_open
                    and any(s[0] == frame.target for s in source.sessions)
                )
                epoch = source.record.epoch if sends and source.record else 0
            for move in self.moves.deliver(frame.target, node, frame, epoch):
                yield self._step(index, move)

    def _confirm(self, nodes: tuple[int, ...], confirmed: int) -> Iterator[Step]:
        for one in sorted(self.confirmed.values[confirmed], key=repr):
            for index, number in enumerate(nodes):
                for move in self.moves.confirm(self.names[index], self.nodes.values[number], one):
                    if move.node != self.nodes.values[number]:
                        yield self._step(index, move)

    def _land(self, nodes: tuple[int, ...], register: int, requests: int) -> Iterator[Step]:
        stored = self.records.values[register]
        for request in sorted(self.requests.values[requests], key=repr):
            judgement = judge(stored, request.expected, request.record, request.bidder)
            if judgement.accepted is None:
                continue
            index = self.names.index(request.bidder)
            node = self.nodes.values[nodes[index]]
            waits = node.call is not None and node.call.record == request.record
            changed = (
                ((index, self.nodes(node._replace(call=node.call._replace(landed=True)))),)
                if waits and node.call
                else ()
            )
            label = f"the register takes {brief(request.record)}" + ("" if waits else ", asked long ago")
            yield Step(label, changed, _NONE, _NONE, _NONE, None, (("record", judgement.accepted),), "", ())

    def _step(self, index: int, move: Local) -> Step:
        frames: set[Frame] = set()
        keeper = move.node.keeper
        for kind, value in move.facts:
            if kind == "wrote" and keeper is not None and keeper.stream and keeper.record:
                frames |= {
                    Frame(name, keeper.stream, keeper.seq, keeper.record.epoch, int(str(value)))
                    for name, _ in keeper.sessions
                }
        confirmed = frozenset(value for kind, value in move.facts if kind == "confirmed")
        return Step(
            move.label, ((index, self.nodes(move.node)),), self._sendable(move.sent), frozenset(frames),
            confirmed, None, _others(move.facts), move.cost, move.log,
        )  # type: ignore[arg-type]  # fmt: skip

    def _both(self, index: int, other: int, move: Both) -> Step:
        mine, its = move.nodes
        frames: frozenset[Frame] = frozenset()
        gone = None
        if move.met:
            assert mine.keeper is not None
            assert mine.keeper.stream is not None
            assert its.keeper is not None
            gone = (self.names[other], mine.keeper.stream)
            frames = frozenset(
                Frame(self.names[other], mine.keeper.stream, seq, epoch, value)
                for seq, epoch, value in mine.keeper.kept
                if seq > its.keeper.seq
            )
        confirmed = frozenset(value for kind, value in move.facts if kind == "confirmed")
        return Step(
            move.label,
            ((index, self.nodes(mine)), (other, self.nodes(its))),
            self._sendable(move.sent),
            frames,
            confirmed,  # type: ignore[arg-type]
            gone,
            _others(move.facts),
            move.cost,
            move.log,
        )

    def _sendable(self, sent: tuple[Request, ...]) -> frozenset[Request]:
        return frozenset(request for request in sent if request.record.epoch <= self.epoch_max)

    # --- the world after a step ---------------------------------------------------------------------------

    def after(self, world: World, step: Step) -> World | None:
        """None: a bound forbids it."""
        spent = world.spent
        if step.cost:
            spent = self._pay(spent, step.cost)
            if spent < 0:
                return None
        nodes = world.nodes
        if step.nodes:
            changed = list(nodes)
            for index, number in step.nodes:
                changed[index] = number
            nodes = tuple(changed)
        register, requests, ghost = world.register, world.requests, world.ghost
        if step.sent:
            requests = self.requests(self.requests.values[requests] | step.sent)
        for kind, value in step.facts:
            if kind == "record":
                register = self.records(value)  # type: ignore[arg-type]
        if register != world.register or step.sent:
            requests = self._live_requests(register, requests)
        if step.facts:
            ghost = self._ghost(ghost, step)
        frames, confirmed = world.frames, world.confirmed
        if step.frames:
            frames = self.frames(self.frames.values[frames] | step.frames)
        if step.confirmed or step.gone:
            kept = frozenset(
                one for one in self.confirmed.values[confirmed] if step.gone != (one.member, one.stream)
            )
            confirmed = self.confirmed(kept | step.confirmed)
        if nodes != world.nodes:
            frames, confirmed = self._tidy(nodes, frames, confirmed)
        return World(register, nodes, requests, frames, confirmed, ghost, spent)

    def _pay(self, spent: int, cost: str) -> int:
        key = ("pay", spent, cost)
        number = self._memo.get(key)
        if number is None:
            value = self.spent.values[spent]
            for one in cost.split():
                value = value._replace(**{one: getattr(value, one) + 1})
            allowed = all(getattr(value, one) <= getattr(self.bounds, one) for one in cost.split())
            number = self._memo[key] = self.spent(value) if allowed else -1
        return number  # type: ignore[no-any-return]

    def _live_requests(self, register: int, requests: int) -> int:
        """Epochs only grow, so a bid whose tag has gone can never land: the register refuses it for ever."""
        key = ("live", register, requests)
        number = self._memo.get(key)
        if number is None:
            record = self.records.values[register]
            live = frozenset(one for one in self.requests.values[requests] if can_land(one.expected, record))
            number = self._memo[key] = self.requests(live)
        return number  # type: ignore[no-any-return]

    def _ghost(self, ghost: int, step: Step) -> int:
        key = ("ghost", ghost, step.nodes, step.facts)
        number = self._memo.get(key)
        if number is None:
            name = self.names[step.nodes[0][0]] if step.nodes else None
            value, _ = claims.learn(self.ghosts.values[ghost], name, step.facts)
            number = self._memo[key] = self.ghosts(value)
        return number  # type: ignore[no-any-return]

    def _tidy(self, nodes: tuple[int, ...], frames: int, confirmed: int) -> tuple[int, int]:
        """Forget what can never be applied or confirmed any more."""
        if not self.frames.values[frames] and not self.confirmed.values[confirmed]:
            return frames, confirmed
        key = ("tidy", nodes, frames, confirmed)
        numbers = self._memo.get(key)
        if numbers is None:
            keepers = {
                name: self.nodes.values[node].keeper for name, node in zip(self.names, nodes, strict=True)
            }
            left = frozenset(
                frame
                for frame in self.frames.values[frames]
                if replica.still_fits(keepers[frame.target], frame)
            )
            news = frozenset(
                one for one in self.confirmed.values[confirmed] if _is_news(one, keepers.values())
            )
            numbers = self._memo[key] = (self.frames(left), self.confirmed(news))
        return numbers  # type: ignore[no-any-return]

    # --- claims -------------------------------------------------------------------------------------------

    def _wrong_in_itself(self, step: Step) -> str:
        for kind, value in step.facts:
            if kind in claims.WRONG and kind not in self.ignored:
                return str(value)
        return ""

    def _wrong_for_clients(self, world: World, step: Step) -> str:
        if not step.facts:
            return ""
        key = ("clients", world.ghost, world.register, step.nodes, step.facts)
        wrong = self._memo.get(key)
        if wrong is None:
            name = self.names[step.nodes[0][0]] if step.nodes else None
            _, wrong = claims.learn(self.ghosts.values[world.ghost], name, step.facts)
            wrong = wrong or claims.granted(
                self.records.values[world.register], step.facts, answers=not self.bounds.outages
            )
            self._memo[key] = wrong
        return wrong  # type: ignore[no-any-return]

    def _wrong(self, world: World) -> str:
        """The claims on a state, each looked up by the few numbers that it depends on."""
        disks = tuple(self.facts(node).disk for node in world.nodes)
        wrong = self._remembered(("kept", world.register, disks, world.ghost), self._lacking)
        serving = [index for index, node in enumerate(world.nodes) if self.facts(node).serves]
        if len(serving) > 1 and not wrong:
            wrong = self._remembered(("able", world.nodes), self._able)
        if "required" not in self.ignored and not wrong:
            for index in serving:
                key = ("needs", index, world.nodes[index], world.register, world.requests)
                wrong = wrong or self._remembered(key, self._too_narrow)
        return wrong

    def _remembered(self, key: tuple[Any, ...], make: Any) -> str:
        wrong = self._memo.get(key)
        if wrong is None:
            wrong = self._memo[key] = make(*key[1:])
        return wrong  # type: ignore[no-any-return]

    def _lacking(self, register: int, disks: tuple[int, ...], ghost: int) -> str:
        held = dict(zip(self.names, disks, strict=True))
        return claims.lacking(self.records.values[register], held, self.ghosts.values[ghost])

    def _able(self, nodes: tuple[int, ...]) -> str:
        return claims.two_able(
            dict(zip(self.names, (self.nodes.values[node] for node in nodes), strict=True))
        )

    def _too_narrow(self, index: int, node: int, register: int, requests: int) -> str:
        return claims.too_narrow(
            self.names[index], self.nodes.values[node], self.records.values[register],
            self.requests.values[requests],
        )  # fmt: skip


_NONE: frozenset[Any] = frozenset()


def told(step: Step) -> list[str]:
    """One step in the words of the log: what happened, then what the machines said and ordered."""
    lines = [step.label]
    for line in step.log:
        match line:
            case Tell(_, code, text):
                lines.append(f"    {code} {text}")
            case Answer(_, code, text):
                lines.append(f"    answers {code or 'accepted'} {text}".rstrip())
            case str():
                lines.append(f"    {line}")
            case _:
                lines.append(f"    {brief(line)}")
    return lines


def _others(facts: tuple[replica.Fact, ...]) -> tuple[replica.Fact, ...]:
    return tuple(fact for fact in facts if fact[0] != "confirmed")


def _is_news(confirmed: Confirmed, keepers: Iterable[Any]) -> bool:
    for keeper in keepers:
        if keeper is not None and keeper.owns and keeper.stream == confirmed.stream:
            known = dict(keeper.durable).get(confirmed.member, -1)
            return confirmed.seq > known or (confirmed.member, False) in keeper.sessions
    return False
