"""A farm's hands: traffic opens after the application is ready, closes before it stops, and is remembered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.agent import farm_hands, farm_shares
from orchestrator.agent.farm_hands import FarmHands
from orchestrator.agent.farm_shares import as_dict
from orchestrator.agent.loop import Loop
from orchestrator.farm.plane import Plane, Traffic
from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.errors import AddressRefused, HafarmError, ProcessUnreachable
from orchestrator.model.names import NodeName, RequestId
from orchestrator.model.orders import Start, Stop
from orchestrator.model.report import Shares
from orchestrator.node import Node
from tests.farm.decide import TIMINGS, WEB, A, B, config
from tests.support.waiting import until

GONE = ProcessUnreachable(what="the pulse", why="it does not answer")
SHARES = Shares(
    "c0ffee00", (("a", 100, True), ("b", 50, False)), ({7: ("b",), 9: ("b", "a")}, {}), ({7: "a"}, {})
)


class Others:
    """The agents of the other nodes."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answer: Any = {"shares": None}

    async def call(self, node: NodeName, method: str, path: str, body: Any, timeout_s: float) -> Any:
        self.asked.append((node, f"{method} {path}"))
        if isinstance(self.answer, Exception):
            raise self.answer
        return json.loads(json.dumps(self.answer))


class World:
    """Application, kernel and pulse of one node: what was done to them, in order, and what they answer."""

    def __init__(self) -> None:
        self.deeds: list[str] = []
        self.there = False
        self.runs = False
        self.fault: Exception | None = None
        self.findings: list[HafarmError] = []
        self.pulse_is_gone = False
        self.lets_go = asyncio.Event()
        self.lets_go.set()
        self.counts: dict[str, Traffic] = {}
        self.say: Callable[[ev.Event], None] = lambda event: None

    # The application.
    async def start(self, epoch: Any = None) -> None:
        if epoch is not None:
            self.deeds.append("application starts")
            self.say(ev.ApplicationStarted(WEB))

    async def stop(self, force: bool) -> None:
        self.deeds.append("application is killed" if force else "application stops")
        self.say(ev.ApplicationStopped(WEB, True))

    async def adopt(self) -> bool:
        return self.runs

    # The kernel.
    async def found(self) -> bool:
        return self.there

    async def preflight(self, plane: Any) -> list[HafarmError]:
        return self.findings

    async def apply(self, plane: Any) -> None:
        if self.fault is not None:
            raise self.fault
        self.there = True
        self.deeds.append("traffic comes")

    async def clean(self) -> None:
        await self.lets_go.wait()
        self.there = False
        self.deeds.append("no traffic comes")

    def announce(self) -> None:
        self.deeds.append("the network is told")

    async def counters(self) -> dict[str, Traffic]:
        return self.counts

    async def close(self) -> None:
        pass

    # The pulse.
    async def lease(self, *_: Any, **__: Any) -> None:
        self.deeds.append("lease")

    async def end_lease(self, _: Any) -> None:
        if self.pulse_is_gone:
            raise GONE
        self.deeds.append("lease ends")

    # Where the farm is.
    async def neighbours(self) -> Mapping[str, str]:
        return {}

    def plane(self, order: do.Steer, known: Any) -> Any:
        return cast(Plane, type("Plane", (), {"leased": (), "shares_lease": False}))


class Pulse:
    def __init__(self, world: World) -> None:
        self.lease, self.end_lease, self._world = world.lease, world.end_lease, world

    async def announce(self, _: Any, state: Any) -> None:
        if self._world.pulse_is_gone:
            raise GONE
        self._world.deeds.append("others are told: open" if state.open else "others are told: closed")


class Told:
    """What a person would read, and what the operator was answered."""

    def __init__(self) -> None:
        self.codes: list[str] = []
        self.answers: list[str] = []

    def tell(self, _: str, code: str, text: str) -> None:
        self.codes.append(code)

    def answer(self, _: RequestId, code: str, text: str) -> None:
        self.answers.append(code)


class Agent:
    """The loop, the machine and the hands of one node whose other node is not there."""

    def __init__(self, folder: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async def find(*_: Any) -> Any:
            return world

        monkeypatch.setattr(farm_hands, "FarmPlane", lambda name, on_event: world)
        monkeypatch.setattr(farm_hands, "find", find)
        monkeypatch.setattr(farm_hands, "seed_of", lambda *_: 1)
        (folder / "state" / "modules").mkdir(parents=True, exist_ok=True)
        cluster = config(A, B, checks=True)
        self.world, self.told, self.posted = world, Told(), list[ev.Event]()
        self.loop = Loop(Node.create(A, cluster, TIMINGS), lambda: None)
        self.others = Others()
        self.hands = FarmHands(
            cluster,
            cluster.farms[0],
            A,
            str(folder / "state"),
            str(folder / "run"),
            "",
            cast(Any, Pulse(world)),
            cast(Any, self.others),
            cast(Any, world),
            cast(Any, self.told),
            self.told.answer,
            self.post,
        )
        world.say = self.post
        self.loop.hands = {WEB: self.hands}

    def post(self, event: ev.Event) -> None:
        self.posted.append(event)
        self.loop.post(event)

    def asks(self, order: Any) -> None:
        self.post(ev.OperatorAsked(RequestId("r"), WEB, order))

    async def comes_up(self) -> None:
        """Alone: the other node is lost."""
        self.loop.step(self.hands.load())
        self.post(ev.PeerLost(B))
        self.asks(Start())
        await self.did("application starts")
        self.post(ev.ChecksPassed(WEB))
        await until(lambda: self.loop.node.farms[WEB].shares)
        await self.settles()

    async def did(self, deed: str) -> None:
        await until(lambda: deed in self.world.deeds)

    async def settles(self) -> None:
        await until(lambda: self.hands._queue.empty() and not self.hands._tasks and self.loop._inbox.empty())


def play(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    story: Callable[[Agent], Awaitable[None]],
    loop: bool = True,
) -> Agent:
    """Run one story beside the hands at work and, unless it orders deeds itself, the machine."""

    async def run() -> Agent:
        agent = Agent(folder, World(), monkeypatch)
        work = [asyncio.create_task(agent.hands.work())]
        if loop:
            work.append(asyncio.create_task(agent.loop.run()))
        try:
            await story(agent)
        finally:
            for task in work:
                task.cancel()
        return agent

    return asyncio.run(run())


def order(number: int = 1, announce: bool = False) -> do.Steer:
    return do.Steer(WEB, number, (), frozenset(), announce)


def test_traffic_opens_only_when_the_checks_were_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(agent: Agent) -> None:
        agent.loop.step(agent.hands.load())
        agent.post(ev.PeerLost(B))
        agent.asks(Start())
        await agent.did("application starts")
        await agent.settles()
        assert not agent.world.there
        agent.post(ev.ChecksPassed(WEB))
        await agent.did("lease")
        assert agent.world.deeds.index("traffic comes") < agent.world.deeds.index("lease")

    play(tmp_path, monkeypatch, story)


def test_traffic_is_closed_before_the_application_stops_however_long_that_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(agent: Agent) -> None:
        await agent.comes_up()
        agent.world.deeds.clear()
        agent.world.lets_go.clear()
        agent.asks(Stop())
        await agent.did("lease ends")
        assert "application stops" not in agent.world.deeds
        agent.world.lets_go.set()
        await agent.did("application stops")
        done = agent.world.deeds
        assert done[:4] == ["others are told: closed", "lease ends", "no traffic comes", "application stops"]

    play(tmp_path, monkeypatch, story)


def test_without_a_pulse_traffic_is_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(agent: Agent) -> None:
        await agent.comes_up()
        agent.world.deeds.clear()
        agent.world.pulse_is_gone = True
        agent.asks(Stop())
        await agent.did("application stops")
        assert agent.world.deeds == ["no traffic comes", "application stops"]

    play(tmp_path, monkeypatch, story)


@pytest.mark.parametrize("refuses", ["before", "at"])
def test_what_the_kernel_refuses_is_told_and_taken_away_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    async def story(agent: Agent) -> None:
        fault = AddressRefused("198.18.0.101", "another machine answers")
        if refuses == "before":
            agent.world.findings = [fault]
        else:
            agent.world.fault = fault
        agent.loop.step(agent.hands.load())
        agent.post(ev.PeerLost(B))
        agent.asks(Start())
        await agent.did("application starts")
        agent.post(ev.ChecksPassed(WEB))
        await agent.did("no traffic comes")
        assert [type(each).__name__ for each in agent.posted].count("SteeringFailed") == 1
        assert "traffic comes" not in agent.world.deeds
        assert "application stops" not in agent.world.deeds, "it is tried again"

    agent = play(tmp_path, monkeypatch, story)
    assert "HF6024" in agent.told.codes


def test_a_deed_that_fails_drops_none_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(agent: Agent) -> None:
        monkeypatch.setattr(agent.hands._file, "write", lambda content: (_ for _ in ()).throw(OSError("EIO")))
        store = do.StoreFarm(WEB, True, 100, False)
        agent.hands.submit((store, do.Unsteer(WEB), do.StopApplication(WEB, force=False)))
        await agent.did("application stops")
        assert agent.posted[0] == ev.EffectFailed(WEB, "StoreFarm", "EIO")
        assert "no traffic comes" in agent.world.deeds

    play(tmp_path, monkeypatch, story, loop=False)


def test_the_network_is_told_again_where_that_is_ordered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(agent: Agent) -> None:
        agent.hands.submit((order(1), order(2, announce=True)))
        await until(lambda: len(agent.posted) == 2)
        assert agent.world.deeds == [
            "traffic comes",
            "lease",
            "traffic comes",
            "lease",
            "the network is told",
        ]
        assert agent.posted == [ev.Steered(WEB, 1), ev.Steered(WEB, 2)]

    play(tmp_path, monkeypatch, story, loop=False)


def test_connections_of_all_services_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(agent: Agent) -> None:
        agent.world.counts = {"g0_tcp": Traffic(connections=2), "g1_tcp": Traffic(connections=3)}
        agent.hands.submit((do.CountConnections(WEB),))
        await until(lambda: agent.posted)
        assert agent.posted == [ev.ConnectionsCounted(WEB, 5)]

    play(tmp_path, monkeypatch, story, loop=False)


@pytest.mark.parametrize(
    ("runs", "there", "goes_on", "deeds"),
    [
        (True, True, True, []),
        (True, False, False, ["lease ends", "no traffic comes", "application is killed"]),
        (False, True, False, ["lease ends", "no traffic comes"]),
    ],
)
def test_an_agent_takes_back_both_or_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: bool, there: bool, goes_on: bool, deeds: list[str]
) -> None:
    async def story(agent: Agent) -> None:
        agent.world.runs, agent.world.there = runs, there
        assert await agent.hands.take_back() is goes_on
        assert agent.world.deeds == deeds

    play(tmp_path, monkeypatch, story, loop=False)


# --- what the next agent finds -----------------------------------------------------------------------------


def test_who_had_the_buckets_is_kept_before_the_kernel_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(agent: Agent) -> None:
        keep = agent.hands._shares.write

        def kept(shares: Shares) -> None:
            agent.world.deeds.append("kept")
            keep(shares)

        monkeypatch.setattr(agent.hands._shares, "write", kept)
        await agent.comes_up()
        assert agent.world.deeds.index("kept") < agent.world.deeds.index("traffic comes")
        shares = Agent(tmp_path, agent.world, monkeypatch).hands.load().shares
        assert shares is not None
        farm = agent.loop.node.farms[WEB]
        assert (shares.config, shares.members) == (farm.rules.digest, (("a", 100, True),))

    play(tmp_path, monkeypatch, story)


def test_all_of_it_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(agent: Agent) -> None:
        await agent.hands._carry_out(do.KeepShares(WEB, SHARES))
        assert agent.hands.load().shares == SHARES

    play(tmp_path, monkeypatch, story, loop=False)


def test_another_boot_knows_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(agent: Agent) -> None:
        await agent.hands._carry_out(do.KeepShares(WEB, SHARES))
        monkeypatch.setattr(farm_shares, "boot_id", lambda: "another")
        assert agent.hands.load().shares is None
        assert not agent.told.codes

    play(tmp_path, monkeypatch, story, loop=False)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"boot_id": 1, "members": [[1]]}', "\x00"])
def test_what_cannot_be_read_is_told_and_traffic_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(farm_shares, "boot_id", lambda: 1)

    async def story(agent: Agent) -> None:
        path = tmp_path / "run" / WEB / "shares.json"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        assert agent.hands.load().shares is None

    agent = play(tmp_path, monkeypatch, story, loop=False)
    assert agent.told.codes == ["HF4500"]


def test_what_cannot_be_written_is_told_and_the_old_is_not_believed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(agent: Agent) -> None:
        await agent.hands._carry_out(do.KeepShares(WEB, SHARES))
        path = tmp_path / "run" / WEB / "shares.json"
        assert json.loads(path.read_text())["config"] == SHARES.config

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(farm_shares.os, "replace", full)
        agent.hands.submit((do.KeepShares(WEB, SHARES), order()))
        await agent.did("lease")
        assert list(path.parent.iterdir()) == []
        assert agent.hands.load().shares is None

    agent = play(tmp_path, monkeypatch, story, loop=False)
    assert agent.told.codes == ["HF4500"]
    assert "EffectFailed" not in [type(each).__name__ for each in agent.posted]


@pytest.mark.parametrize(
    ("answer", "learned"),
    [
        ({"shares": as_dict(SHARES)}, [ev.SharesLearned(WEB, SHARES)]),
        ({"shares": None}, [ev.SharesLearned(WEB, None)]),
        ({"error": {"code": "HF1232"}}, []),
        ({"shares": {"config": "x"}}, []),
        (["shares"], []),
        (ProcessUnreachable(what="the agent of b", why="it does not answer"), []),
    ],
)
def test_another_agent_is_asked_who_had_the_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, learned: list[Any]
) -> None:
    async def story(agent: Agent) -> None:
        agent.others.answer = answer
        await agent.hands._carry_out(do.AskShares(WEB, B))
        await until(lambda: not agent.hands._tasks)
        assert agent.posted == learned
        assert agent.others.asked == [("b", "GET /api/v1/modules/web/shares")]

    play(tmp_path, monkeypatch, story, loop=False)
