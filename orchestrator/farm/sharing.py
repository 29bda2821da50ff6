"""From one view to the next: at once where a node is lost, in two phases where everybody lives."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from orchestrator.farm.state import Chances, Farm
from orchestrator.farm.turn import Turn
from orchestrator.farm.view import View, directors, gaining, maps, moves
from orchestrator.model.effects import Steer, Traffic
from orchestrator.model.names import NodeName
from orchestrator.model.report import FarmRole


def prepare_max_s(farm: Farm) -> float:
    """How long a change that loses nothing waits for those that gain by it.

    An agent that restarts is away for as long as its grace; a node that dies leaves the view within T. What
    lasts longer are nodes that do not all hear each other, and have different views for ever.
    """
    return farm.timings.agent_grace_s + 2 * farm.timings.detection_s


def advance(turn: Turn) -> None:
    """What follows from who is there now."""
    if not turn.farm.settled:
        return
    _drop_the_lost(turn)
    _prepare(turn)
    steer(turn)
    _note_prepared(turn)
    if _commit(turn):
        steer(turn)


def _drop_the_lost(turn: Turn) -> None:
    """Nobody waits for a node that serves no more: its buckets go at once, and without its connections."""
    farm = turn.farm
    gone = farm.committed.names - farm.serving
    if gone:
        after = farm.committed.without(gone)
        _abandon(turn)
        _moved(turn, after)
        turn.set(committed=after, previous=_kept(turn.farm, lambda _, name: name not in gone))
        turn.tell("HF6021", f"{_listed(gone)} out: {_shared(after)}")


def _prepare(turn: Turn) -> None:
    """Phase one of a planned change: the nodes that gain learn where the connections still are."""
    farm = turn.farm
    target = farm.taking
    if target != farm.preparing:
        _abandon(turn)
    if target not in (farm.committed, farm.preparing):
        until = turn.later(prepare_max_s(farm))
        turn.set(preparing=target, prepare_until=until, gains=_gains(farm, target), prepared=None)


def _abandon(turn: Turn) -> None:
    """What was being prepared is not what comes; others may have come to it all the same.

    So whoever would have owned a bucket may look for its connections here: it is not asked back.
    """
    farm = turn.farm
    if farm.preparing is not None:
        maybe = maps(farm.rules, farm.preparing)
        previous = _kept(farm, lambda place, name: maybe[place[0]][place[1]] != name)
        turn.set(preparing=None, prepare_until=None, gains=(), previous=previous)


def _kept(farm: Farm, keep: Callable[[tuple[int, int], NodeName], bool]) -> tuple[Chances, ...]:
    """Of what this node knows of connections elsewhere, by group and bucket, that which is to be kept."""
    return tuple(
        {bucket: name for bucket, name in chances.items() if keep((group, bucket), name)}
        for group, chances in enumerate(farm.previous)
    )


def _gains(farm: Farm, target: View) -> tuple[Chances, ...]:
    """Of each group the buckets that come here, and who has their connections until then."""
    gains: list[dict[int, NodeName]] = [{} for _ in farm.rules.groups]
    after = maps(farm.rules, target)
    for other in (_other_side(farm, target), farm.committed):
        for move in moves(maps(farm.rules, other), after) if other is not None else ():
            if move.target == farm.me and move.source is not None and move.source in farm.serving:
                gains[move.group][move.bucket] = move.source
    return tuple(gains)


def _other_side(farm: Farm, target: View) -> View | None:
    """A split is over: those who come in had shared the traffic out among themselves."""
    joining = target.names - farm.committed.names - {farm.me}
    side = View(tuple(member for member in target.members if member.name in joining))
    digest = farm.digest(side)
    for name in joining:
        told = farm.peers[name].said
        if told is not None and told.view == digest:
            return side
    return None


def _note_prepared(turn: Turn) -> None:
    farm = turn.farm
    if farm.preparing is not None and farm.role is FarmRole.UP and farm.steered == farm.steering:
        turn.set(prepared=farm.preparing)


def _commit(turn: Turn) -> bool:
    """Phase two: the new owners. True when it came to that."""
    farm = turn.farm
    if farm.preparing is None:
        return False
    missing = _unprepared(farm, farm.preparing)
    if missing and not turn.is_due(farm.prepare_until):
        return False
    if missing:
        turn.tell(
            "HF6022", f"{_listed(missing)} did not say in time to be prepared: connections may be reset"
        )
    after = farm.preparing
    joined = after.names - farm.committed.names - {farm.me}
    _moved(turn, after)
    if missing or _other_side(farm, after) is not None:
        # Not everybody came here by the same views, so no order of them keeps packets from going in circles.
        mine = maps(farm.rules, after)
        turn.set(previous=_kept(turn.farm, lambda place, _: mine[place[0]][place[1]] == farm.me))
    previous = tuple({**old, **new} for old, new in zip(_chances(turn.farm), farm.gains, strict=True))
    turn.set(
        committed=after,
        preparing=None,
        prepare_until=None,
        gains=(),
        previous=previous,
        rejoined=bool(joined),
    )
    turn.tell("HF6021", _shared(after))
    return True


def _unprepared(farm: Farm, target: View) -> frozenset[NodeName]:
    digest = farm.digest(target)

    def is_prepared(name: NodeName) -> bool:
        if name == farm.me:
            return farm.prepared == target
        told = farm.peers[name].said
        return told is not None and digest in (told.prepared, told.view)

    needed = gaining(farm.rules, farm.committed, target, farm.serving)
    return frozenset(name for name in needed if not is_prepared(name))


def _moved(turn: Turn, after: View) -> None:
    """Keep in mind where the connections of moved buckets are: only ever further back than the last owner.

    An entry that points at whoever owns the bucket now is dropped; so no packet is sent round in a circle.
    """
    farm = turn.farm
    previous = [dict(one) for one in _chances(farm)]
    lost = [set(one) for one in farm.lost or (frozenset() for _ in farm.rules.groups)]
    for move in moves(maps(farm.rules, farm.committed), maps(farm.rules, after)):
        if move.target is not None and previous[move.group].get(move.bucket) == move.target:
            del previous[move.group][move.bucket]
        if move.target == farm.me:
            lost[move.group].discard(move.bucket)
        elif move.source == farm.me and farm.open:
            lost[move.group].add(move.bucket)
    turn.set(previous=tuple(previous), lost=tuple(map(frozenset, lost)))


def _chances(farm: Farm) -> Iterable[Chances]:
    return farm.previous or tuple({} for _ in farm.rules.groups)


def steer(turn: Turn) -> None:
    """Order the kernel's rules where they are to be others than were ordered last."""
    farm = turn.farm
    if farm.role is not FarmRole.UP or not farm.settled:
        return
    wanted = (_traffic(farm), _answers(farm))
    announce = farm.rejoined and bool(wanted[1])
    if wanted != farm.ordered or announce:
        turn.set(steering=farm.steering + 1, ordered=wanted, rejoined=False)
        turn.do(Steer(farm.module, turn.farm.steering, *wanted, announce))


def _traffic(farm: Farm) -> tuple[Traffic, ...]:
    """The owners of now, and where this node looks for connections that it does not know."""
    gains = farm.gains or tuple({} for _ in farm.rules.groups)
    lost = farm.lost or tuple(frozenset() for _ in farm.rules.groups)
    found = []
    for owners, old, new, gone in zip(
        maps(farm.rules, farm.committed), _chances(farm), gains, lost, strict=True
    ):
        chances = {bucket: name for bucket, name in {**old, **new}.items() if name in farm.serving}
        found.append(Traffic(owners, chances, gone))
    return tuple(found)


def _answers(farm: Farm) -> frozenset[str]:
    return frozenset(
        address for address, name in directors(farm.rules, farm.committed).items() if name == farm.me
    )


def _listed(names: Iterable[NodeName]) -> str:
    return ", ".join(sorted(names))


def _shared(view: View) -> str:
    return f"traffic goes to {_listed(view.names)}" if view.names else "nobody takes traffic"
