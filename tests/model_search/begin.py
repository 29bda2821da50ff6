"""Where each search begins: a healthy mirror, brought up by the same steps that are searched afterwards."""

from __future__ import annotations

from typing import Final

from orchestrator.mirror.state import Stage
from orchestrator.model.config import ClusterConfig, DirectoryConfig, MirrorConfig, NodeConfig
from orchestrator.model.events import OperatorAsked
from orchestrator.model.names import NEVER, ClusterName, ModuleName, NodeName, RequestId
from orchestrator.model.orders import Start
from orchestrator.model.report import Role
from tests.model_search.search import Search
from tests.model_search.values import Ghost, Node, Spent, World

BOUNDLESS: Final = 1 << 31
"""More epochs than any search has."""
HEALTHY_MAX = 400
"""Steps in which two or three nodes are healthy; more means that the mirror never comes to rest."""


def config(*nodes: NodeName) -> ClusterConfig:
    """One mirror over these nodes."""
    mirror = MirrorConfig(ModuleName("m"), nodes, (DirectoryConfig("/srv/m"),))
    return ClusterConfig(ClusterName("searched"), tuple(NodeConfig(name, {}) for name in nodes), (mirror,))


def virgin(search: Search) -> World:
    """All nodes are switched on, and nothing was ever recorded."""
    search.epoch_max = 1 + search.bounds.epochs
    nodes = []
    for name in search.names:
        node = Node(search.moves.mirrors.number(search.moves.create(name)), NEVER, True, 0, 0)
        turn = search.moves.turn(name, node)
        turn.kill_agent()
        nodes.append(search.nodes(turn.node))
    return World(
        register=search.records(None),
        nodes=tuple(nodes),
        requests=search.requests(frozenset()),
        frames=search.frames(frozenset()),
        confirmed=search.confirmed(frozenset()),
        ghost=search.ghosts(Ghost()),
        spent=search.spent(Spent()),
    )


def healthy(search: Search) -> World:
    """The first node is primary, everybody else in sync; what was used up until here is not counted."""
    world = virgin(search)
    search.epoch_max = BOUNDLESS
    world = rest(search, world)
    first = search.nodes.values[world.nodes[0]]
    turn = search.moves.turn(search.names[0], first)
    turn.tell(OperatorAsked(RequestId("first"), search.moves.module, Start(first=True)))
    sent = frozenset(turn.sent)
    nodes = (search.nodes(turn.node), *world.nodes[1:])
    world = world._replace(nodes=nodes, requests=search.requests(sent))
    world = rest(search, world)
    record = search.records.values[world.register]
    assert record is not None
    assert record.in_sync == frozenset(search.names), f"not healthy: {record}"
    for name, number in zip(search.names, world.nodes, strict=True):
        mirror = search.moves.mirrors.values[search.nodes.values[number].mirror]
        assert mirror.role is (Role.PRIM if name == search.names[0] else Role.SECOND)
        assert mirror.stage is (Stage.SERVING if name == search.names[0] else Stage.IDLE)
    search.epoch_max = record.epoch + search.bounds.epochs
    return world._replace(spent=search.spent(Spent()))


def alone(search: Search, told: bool = False) -> World:
    """The second node lost power and was bid out; it has a copy again, and the machine is not told yet.

    Not `told`: not even the stream has begun.
    """
    world = healthy(search)
    search.epoch_max = BOUNDLESS
    name = search.names[1]
    turn = search.moves.turn(name, search.nodes.values[world.nodes[1]])
    turn.lose_power()
    nodes = (world.nodes[0], search.nodes(turn.node), *world.nodes[2:])
    world = rest(search, world._replace(nodes=nodes), "is ready", *(() if told else ("(copy)",)))
    record = search.records.values[world.register]
    assert record is not None
    assert search.names[1] not in record.in_sync
    search.epoch_max = record.epoch + search.bounds.epochs
    return world


def joining(search: Search) -> World:
    """As `alone`, and the copy is complete."""
    return alone(search, told=True)


def two_histories(search: Search) -> World:
    """The second node was made to serve without the register, wrote, and lost its power a moment ago.

    Meanwhile the first one went on under the next record: with two nodes alone, with three still with the
    second one, whose silence it has not noticed.
    """
    world = healthy(search)
    search.epoch_max = BOUNDLESS
    first, second, *third = search.names
    lost = third[0] if third else second
    world = along(
        search,
        world,
        f"{second} loses {first}",
        f"{second} gets no answer to its bid",
        f"operator at {second}: Promote",
        f"{second} gets no answer to its read",
        f"{second} gets no answer to its bid",
        f"{second}: its gate takes the reign",
        f"{second} writes 1",
        f"{second} syncs its disk",
        f"{first} loses {lost}",
        f": {first} primary, in sync",
        f"{first} learns that its bid won",
        f"{first}: its gate takes the reign",
        f"{second}: power dies",
    )
    record = search.records.values[world.register]
    assert record is not None
    assert record.in_sync == frozenset(search.names) - {lost}
    assert search.ghosts.values[world.ghost].two
    search.epoch_max = record.epoch + search.bounds.epochs
    return world


def along(search: Search, world: World, *labels: str) -> World:
    """These steps, one after the other; of what is used up by them the writes alone are counted."""
    for label in labels:
        writes = search.spent.values[world.spent].writes
        free = Spent(*(-1 for _ in Spent._fields))._replace(writes=writes)
        world = world._replace(spent=search.spent(free))
        after = search.after(world, next(step for step in search.steps(world) if label in step.label))
        assert after is not None
        world = after
    return world._replace(spent=search.spent(Spent(search.spent.values[world.spent].writes)))


UNHEALTHY = ("loses", "dies", "no answer", "operator at", "writes")


def rest(search: Search, world: World, *never: str) -> World:
    """Take every step in which nothing fails, in a fixed order, until none changes anything."""
    visited = {world}
    for _ in range(HEALTHY_MAX):
        for step in search.steps(world):
            if any(word in step.label for word in (*UNHEALTHY, *never)):
                continue
            after = search.after(world._replace(spent=search.spent(Spent(hints=-1))), step)
            assert after is not None
            after = after._replace(spent=world.spent)
            if after not in visited:
                visited.add(after)
                world = after
                break
        else:
            return world
    raise AssertionError("a healthy mirror never comes to rest")
