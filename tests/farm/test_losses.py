"""A node dies: its clients hear so at once, everybody else goes on, and the address is answered again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.farm.plane import Mode
from tests.farm.capture import ACK, RST, SYN, captured
from tests.farm.clients import source
from tests.farm.rig import V4, V6, Farm, dealt, owner_of, shared
from tests.support.waiting import eventually

OWNERS = shared("n1", "n2", "n3")
CONNECTIONS = 90


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm(3) as made:
        yield made


@pytest.mark.parametrize("mode", Mode)
def test_a_dead_node_costs_its_own_connections_alone_and_resets_them(farm: Farm, mode: Mode) -> None:
    farm.apply(OWNERS, "n1", mode=mode)
    with farm.moving(V4, CONNECTIONS) as moving4, farm.moving(V6, CONNECTIONS) as moving6:
        farm.net.unplug("n3")
        left = dealt(OWNERS, "n3", "n1", "n2")
        farm.apply(left, "n1", ["n1", "n2"], mode=mode)
        if mode is Mode.SPREAD:
            farm.nodes["n1"].do("announce")
        for moving in (moving4, moving6):
            doomed = [20000 + number for number, node in enumerate(moving.nodes) if node == "n3"]
            assert doomed
            eventually(lambda: len(moving.report()["broken"]) >= len(doomed), 20)  # noqa: B023
            report = moving.report()
            assert report["broken"] == {str(port): "ConnectionResetError" for port in doomed}
            assert report["stuck"] == []
        _assert_answered_once(farm, left, ("n1", "n2"))


@pytest.mark.parametrize("mode", [Mode.DIRECTED, Mode.SPREAD])
def test_a_dead_director_costs_no_connection_of_others(farm: Farm, mode: Mode) -> None:
    farm.apply(OWNERS, "n1", mode=mode)
    with farm.moving(V4, CONNECTIONS) as moving4, farm.moving(V6, CONNECTIONS) as moving6:
        farm.net.unplug("n1")
        left = dealt(OWNERS, "n1", "n2", "n3")
        farm.apply(left, "n2", ["n2", "n3"], mode=mode)
        for moving in (moving4, moving6):
            doomed = {str(20000 + number) for number, node in enumerate(moving.nodes) if node == "n1"}
            eventually(lambda: moving.report()["broken"].keys() >= doomed, 20)  # noqa: B023
            report = moving.report()
            assert report["broken"].keys() == doomed
            assert report["stuck"] == []
        _assert_answered_once(farm, left, ("n2", "n3"))


def test_where_resets_are_not_wanted_a_dead_nodes_connections_hear_nothing(farm: Farm) -> None:
    farm.apply(OWNERS, "n1", reset_on_loss=False)
    with farm.moving(V4, CONNECTIONS) as moving:
        doomed = [20000 + number for number, node in enumerate(moving.nodes) if node == "n3"]
        farm.net.unplug("n3")
        farm.apply(dealt(OWNERS, "n3", "n1", "n2"), "n1", ["n1", "n2"], reset_on_loss=False)
        eventually(lambda: moving.report()["stuck"] == doomed, 20)
        assert moving.report()["broken"] == {}


def _assert_answered_once(farm: Farm, owners: tuple[str, ...], alive: tuple[str, ...]) -> None:
    """On the wire: each new connection is answered by its owner, once, and by nobody else."""
    macs = {farm.nodes[name].member.mac: name for name in alive}
    for version, address in ((4, V4), (6, V6)):
        asked = [(source(version, 300 + n), 6000 + n) for n in range(200)]
        with captured(farm.net["client"]) as segments:
            farm.ask(address, "tcp", asked)
        answers: dict[tuple[str, int], list[tuple[str, int]]] = {client: [] for client in asked}
        for segment in segments:
            client = segment.target, segment.target_port
            if segment.source == address and client in answers and segment.flags & (SYN | RST):
                node = macs.get(segment.mac, segment.mac)
                # Who has served it, and is done, refuses an end that a slow client says once more.
                if segment.flags != RST or (node, SYN | ACK) not in answers[client]:
                    answers[client].append((node, segment.flags))
        assert answers == {client: [(owner_of(owners, *client), SYN | ACK)] for client in asked}
