"""From one view to the next: at once where a node is lost, in two phases where everybody lives."""

from __future__ import annotations

import operator
from collections.abc import Iterable

from orchestrator.farm import history, learning
from orchestrator.farm.buckets import Owners
from orchestrator.farm.history import Chances
from orchestrator.farm.members import HOLD_MAX_S
from orchestrator.farm.state import Farm
from orchestrator.farm.turn import Turn
from orchestrator.farm.view import Member, View, directors, gaining, maps
from orchestrator.model.effects import KeepShares, Steer, Traffic
from orchestrator.model.names import NodeName
from orchestrator.model.report import FarmRole, Shares


def prepare_max_s(farm: Farm, target: View) -> float:
    """How long a change that loses nothing waits for those that gain by it.

    An agent that restarts is away for as long as its grace; a node that dies leaves the view within T. Who
    comes in may hold us out for having come and gone: meanwhile all is served without it. What lasts longer
    are nodes that do not all hear each other, and have different views for ever.
    """
    joins = target.names - farm.committed.names
    return farm.timings.agent_grace_s + 2 * farm.timings.detection_s + (HOLD_MAX_S if joins else 0.0)


def advance(turn: Turn) -> None:
    """What follows from who is there now."""
    if not turn.farm.settled:
        return
    _drop_the_lost(turn)
    _prepare(turn)
    _keep(turn)
    steer(turn)
    if _commit(turn) or _fade(turn):
        _keep(turn)
        steer(turn)


def recall(turn: Turn, shares: Shares) -> None:
    """Go on where a former agent of this node was: what changed meanwhile comes as any change does."""
    farm = turn.farm
    committed = View(tuple(Member(*member) for member in shares.members))
    until = turn.later(prepare_max_s(farm, committed)) if shares.fading else None
    # Whoever was lost while there was no agent is found out by being compared with all.
    turn.set(committed=committed, former=shares.former, served=frozenset(farm.nodes), recalled=True)
    turn.set(taught=True)
    turn.set(fading=shares.fading, fading_until=until)


def _keep(turn: Turn) -> None:
    """Before the kernel does it: an agent that ends in between goes on with what was meant."""
    farm = turn.farm
    facts = (farm.committed, farm.former, farm.fading)
    if farm.kept and all(map(operator.is_, facts, farm.kept)):
        return
    if facts != farm.kept:
        members = tuple((member.name, member.percent, member.live) for member in farm.committed.members)
        turn.do(KeepShares(farm.module, Shares(farm.rules.digest, members, farm.former, farm.fading)))
    turn.set(kept=facts)


def _drop_the_lost(turn: Turn) -> None:
    """Nobody waits for a node that serves no more: its buckets go at once, and without its connections."""
    farm = turn.farm
    gone = farm.committed.names - farm.serving
    if gone:
        after = farm.committed.without(gone)
        turn.set(preparing=None, prepare_until=None, coming=(), meeting=None, told_of=None, theirs=())
        former = history.moved(farm.former, maps(farm.rules, farm.committed), maps(farm.rules, after))
        turn.set(former=former, committed=after, fading=(), fading_until=None)
        turn.tell("HF6021", f"{_listed(gone)} out: {_shared(after)}")
    if farm.served != farm.serving:
        left, farm = farm.served - farm.serving, turn.farm
        turn.set(
            former=history.without(farm.former, left),
            coming=history.without(farm.coming, left),
            theirs=history.without(farm.theirs, left),
            fading=history.asked_without(farm.fading, left),
            served=farm.serving,
        )


def _prepare(turn: Turn) -> None:
    """Phase one of a planned change: the nodes that gain learn where the connections still are."""
    farm = turn.farm
    target = farm.taking
    if target != farm.preparing:
        turn.set(preparing=None, prepare_until=None, coming=(), meeting=None)
    if target not in (farm.committed, farm.preparing):
        now, after = maps(farm.rules, farm.committed), maps(farm.rules, target)
        other = _other_side(farm, target)
        if other is None:
            coming = history.moved(farm.former, now, after)
        else:
            coming = _joined(farm, other, target)
            if farm.told_of != other:
                learning.meet(turn, other)
        until = turn.later(prepare_max_s(farm, target))
        turn.set(preparing=target, prepare_until=until, coming=coming)


def _joined(farm: Farm, other: View, target: View) -> history.Former:
    """Whichever side this is, both come in the same order."""
    now, there, after = (maps(farm.rules, view) for view in (farm.committed, other, target))
    first = farm.digest(farm.committed) < farm.digest(other)
    theirs = farm.theirs if farm.told_of == other else ()
    return history.joined((farm.former, theirs), now, there, after, first)


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


def _commit(turn: Turn) -> bool:
    """Phase two: the new owners. True when it came to that."""
    farm = turn.farm
    if farm.preparing is None:
        return False
    missing = _unprepared(farm, farm.preparing)
    if missing and not turn.is_due(farm.prepare_until):
        return False
    after = farm.preparing
    if missing:
        turn.tell(
            "HF6022", f"{_listed(missing)} did not say in time to be prepared: connections may be reset"
        )
    rejoined = bool(after.names - farm.committed.names - {farm.me})
    here = tuple(group.previous for group in _traffic(farm)) if farm.open else ()
    turn.set(committed=after, former=farm.coming, rejoined=rejoined)
    turn.set(preparing=None, prepare_until=None, coming=(), meeting=None, told_of=None, theirs=())
    turn.set(fading=here, fading_until=turn.later(prepare_max_s(farm, farm.committed)) if here else None)
    turn.tell("HF6021", _shared(after))
    return True


def _fade(turn: Turn) -> bool:
    """Phase three: once nobody sends by the old owners any more, what was known for their sake goes."""
    farm = turn.farm
    if farm.fading and (turn.is_due(farm.fading_until) or (farm.in_force and is_done(farm))):
        turn.set(fading=(), fading_until=None)
        return True
    return False


def is_done(farm: Farm) -> bool:
    """Everybody in reach whose kernel shares traffic out does it by the same words as this node."""
    stamp = farm.stamp
    return all(
        peer.said is not None and peer.said.done == stamp for peer in farm.peers.values() if peer.serves
    )


def _unprepared(farm: Farm, target: View) -> frozenset[NodeName]:
    stamp = farm.stamp

    def is_prepared(name: NodeName) -> bool:
        if name == farm.me:
            return farm.is_prepared
        told = farm.peers[name].said
        return told is not None and stamp in (told.prepared, told.done)

    needed = gaining(farm.rules, farm.committed, target, farm.serving)
    return frozenset(name for name in needed if not is_prepared(name))


def steer(turn: Turn) -> None:
    """Order the kernel's rules where they are to be others than were ordered last."""
    farm = turn.farm
    if farm.role is not FarmRole.UP or not farm.settled:
        return
    facts = (farm.committed, farm.preparing, farm.former, farm.coming, farm.fading)
    if not farm.rejoined and farm.ordered and all(map(operator.is_, facts, farm.considered)):
        return
    turn.set(considered=facts)
    wanted = (_traffic(farm), _answers(farm))
    announce = farm.rejoined and bool(wanted[1])
    if wanted != farm.ordered or announce:
        turn.set(steering=farm.steering + 1, ordered=wanted, rejoined=False)
        turn.do(Steer(farm.module, turn.farm.steering, *wanted, announce))


def _traffic(farm: Farm) -> tuple[Traffic, ...]:
    """The owners of now, and where this node looks for connections that it does not know."""
    now = maps(farm.rules, farm.committed)
    here = history.chances(farm.former, now, farm.me) if farm.former else ({},) * len(now)
    if farm.fading:
        # In the old order, until nobody sends by it any more.
        here = tuple(
            {**new, **{bucket: name for bucket, name in old.items() if owners[bucket] != farm.me}}
            for old, new, owners in zip(farm.fading, here, now, strict=True)
        )
    if farm.preparing is not None and farm.coming:
        after = maps(farm.rules, farm.preparing)
        soon = history.chances(farm.coming, after, farm.me)
        here = tuple(map(_prepared, here, soon, now, after, (farm.me,) * len(now)))
    return tuple(map(Traffic, now, here, history.lost(farm.former, len(now), farm.me)))


def _prepared(old: Chances, new: Chances, now: Owners, after: Owners, me: NodeName) -> Chances:
    """By the new order what this node gets; the rest by the old one, and by the new where that has none."""
    gained = {b: name for b, name in new.items() if after[b] == me and now[b] != me}
    return {**new, **old, **gained}


def _answers(farm: Farm) -> frozenset[str]:
    return frozenset(
        address for address, name in directors(farm.rules, farm.committed).items() if name == farm.me
    )


def _listed(names: Iterable[NodeName]) -> str:
    return ", ".join(sorted(names))


def _shared(view: View) -> str:
    return f"traffic goes to {_listed(view.names)}" if view.names else "nobody takes traffic"
