"""One farm's hands: its effects become deeds, one after another, and none hangs on another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.agent.control import Neighbours
from orchestrator.agent.farm_place import Place, find, seed_of
from orchestrator.agent.farm_shares import SharesFile, SharesNotKept, from_dict
from orchestrator.agent.journal import Journal
from orchestrator.agent.pulse import PulseClient
from orchestrator.farm import learning
from orchestrator.host.application import Application
from orchestrator.host.farm_plane import FarmPlane
from orchestrator.host.store import JsonFile
from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.config import ClusterConfig, FarmConfig
from orchestrator.model.errors import CorruptState, HafarmError, ProcessUnreachable
from orchestrator.model.names import NEVER, NodeName, RequestId
from orchestrator.model.report import PERCENT_MAX, Shares

STORE_TIMEOUT_S: Final = 10.0
"""A disk that takes longer to keep a few hundred bytes is as good as dead."""
STEER_TIMEOUT_S: Final = 10.0
"""A kernel takes milliseconds; what takes longer hangs, and the others should have this node's part."""
MACS_AGAIN_S: Final = 30.0
"""How often the others' hardware addresses are asked for: one that is not known costs a hop, no more."""


class FarmHands:
    """Carries out what one farm's machine orders, and never decides: what came of it is posted."""

    def __init__(
        self,
        config: ClusterConfig,
        module: FarmConfig,
        me: NodeName,
        state_dir: str,
        run_dir: str,
        bundle: str,
        pulse: PulseClient,
        neighbours: Neighbours,
        application: Application,
        journal: Journal,
        answer: Callable[[RequestId, str, str], None],
        post: Callable[[ev.Event], None],
    ) -> None:
        self.module = module
        self.application = application
        self.plane = FarmPlane(module.name, self._plane_said)
        self._config = config
        self._me = me
        self._bundle = bundle
        self._pulse = pulse
        self._neighbours = neighbours
        self._journal = journal
        self._answer = answer
        self._post = post
        self._file = JsonFile(os.path.join(state_dir, "modules", f"{module.name}.json"))
        self._shares = SharesFile(Path(run_dir, module.name))
        self._place: Place | None = None
        self._known: Mapping[str, str] = {}
        self._known_at = -MACS_AGAIN_S
        self._queue: asyncio.Queue[tuple[do.Effect, ...]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the queue ----------------------------------------------------------------------------------------

    def submit(self, effects: tuple[do.Effect, ...]) -> None:
        """Queue one decision's effects."""
        self._queue.put_nowait(effects)

    async def work(self) -> None:
        """Until cancelled: one decision after the other."""
        while True:
            for effect in await self._queue.get():
                try:
                    await self._carry_out(effect)
                except (HafarmError, OSError, TimeoutError) as fault:
                    why = str(fault) or type(fault).__name__
                    self._post(ev.EffectFailed(self.module.name, type(effect).__name__, why))

    async def _carry_out(self, effect: do.Effect) -> None:
        """The one place where an effect becomes a deed."""
        match effect:
            case do.Announce(module, state):
                # A pulse that is gone is told everything again when it is back.
                with contextlib.suppress(HafarmError, OSError, TimeoutError):
                    await self._pulse.announce(module, state)
            case do.StoreFarm():
                await self._store(effect)
            case do.KeepShares(_, shares):
                await self._keep(shares)
            case do.AskShares(_, node):
                self._start(self._ask_shares(node))
            case do.StartApplication(_, epoch):
                self._start(self._start_application(epoch))
            case do.StopApplication(_, force):
                self._start(self._stop_application(force))
            case do.Steer():
                await self._steer(effect)
            case do.Unsteer():
                await self._unsteer()
            case do.CountConnections():
                self._start(self._count())
            case do.Answer(request, code, text):
                self._answer(request, code, text)
            case do.Tell(module, code, text):
                self._journal.tell(module, code, text)
            case other:
                raise AssertionError(f"no hand for {other}")

    def _start(self, deed: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(deed)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- disk ---------------------------------------------------------------------------------------------

    def load(self) -> ev.FarmLoaded:
        """As this node's disk has it. Raises CorruptState."""
        content = self._file.read() or {}
        wanted, draining = content.get("wanted", False), content.get("draining", False)
        percent = content.get("percent", 100)
        right = isinstance(wanted, bool) and isinstance(draining, bool) and isinstance(percent, int)
        if not right or not 0 <= percent <= PERCENT_MAX:
            raise CorruptState(
                "the farm's state", "wanted, percent and draining are not there", self._file.path
            )
        # Milliseconds: no life of this agent tells so many words that the next one would begin below them.
        serial = int(time.time() * 1000)
        return ev.FarmLoaded(self.module.name, wanted, percent, draining, serial, shares=self._recall())

    async def _store(self, effect: do.StoreFarm) -> None:
        content = {"wanted": effect.wanted, "percent": effect.percent, "draining": effect.draining}
        async with asyncio.timeout(STORE_TIMEOUT_S):
            await asyncio.to_thread(self._file.write, content)

    async def _keep(self, shares: Shares) -> None:
        try:
            await asyncio.to_thread(self._shares.write, shares)
        except SharesNotKept as fault:
            # Only an agent that follows would miss it, so the traffic does not wait for it.
            self._journal.tell(self.module.name, fault.code, str(fault))

    def _recall(self) -> Shares | None:
        try:
            return self._shares.read()
        except SharesNotKept as fault:
            self._journal.tell(self.module.name, fault.code, str(fault))
            return None

    async def _ask_shares(self, node: NodeName) -> None:
        path = f"/api/v1/modules/{self.module.name}/shares"
        with contextlib.suppress(HafarmError, ValueError, TypeError, KeyError):  # another one is asked
            told = await self._neighbours.call(node, "GET", path, None, learning.ANSWER_S)
            shares = told["shares"]
            self._post(ev.SharesLearned(self.module.name, from_dict(shares) if shares else None))

    async def take_back(self) -> bool:
        """After a start of the agent: whether application and traffic go on as the former one left them."""
        await self.plane.start()
        there = await self.plane.found()
        running = await self.application.adopt()
        if running and there:
            return True
        # Half of it is nothing: it begins anew, with the traffic after the application.
        await self._pulse.end_lease(self.module.name)
        await self.plane.clean()
        if running:
            await self.application.stop(force=True)
        return False

    # --- application --------------------------------------------------------------------------------------

    async def _start_application(self, epoch: Any) -> None:
        try:
            await self.application.start(epoch)
        except (HafarmError, OSError) as fault:
            self._post(ev.ApplicationFailed(self.module.name, str(fault)))

    async def _stop_application(self, force: bool) -> None:
        try:
            await self.application.stop(force=force)
        except (HafarmError, OSError) as fault:
            self._post(ev.EffectFailed(self.module.name, "StopApplication", str(fault)))

    # --- traffic ------------------------------------------------------------------------------------------

    async def _steer(self, order: do.Steer) -> None:
        try:
            async with asyncio.timeout(STEER_TIMEOUT_S):
                await self._apply(order)
        except (HafarmError, OSError, TimeoutError) as fault:
            why = str(fault) or f"not done within {STEER_TIMEOUT_S:g} s"
            self._post(ev.SteeringFailed(self.module.name, order.number, why))
        else:
            self._post(ev.Steered(self.module.name, order.number))

    async def _apply(self, order: do.Steer) -> None:
        first = self._place is None or order.number == 1
        if first:
            seed = await asyncio.to_thread(seed_of, self._bundle, self.module)
            self._place = await find(self._config, self.module, self._me, seed)
        assert self._place is not None
        if first or time.monotonic() - self._known_at > MACS_AGAIN_S:
            self._known_at = time.monotonic()
            self._known = {**self._known, **await self._place.neighbours()}
        plane = self._place.plane(order, self._known)
        if first and not await self.plane.found():
            for fault in await self.plane.preflight(plane):
                raise fault
        await self.plane.apply(plane)
        await self._pulse.lease(
            self.module.name, NEVER, frozenset(), list(plane.leased), shared=plane.shares_lease
        )
        if order.announce:
            self.plane.announce()

    async def _unsteer(self) -> None:
        # A pulse that does not answer is ended as a hung one, and the next one is told of no lease.
        with contextlib.suppress(ProcessUnreachable, TimeoutError):
            await self._pulse.end_lease(self.module.name)
        await self.plane.clean()

    async def _count(self) -> None:
        with contextlib.suppress(HafarmError, OSError):  # it is asked again
            traffic = await self.plane.counters()
            count = sum(each.connections for each in traffic.values())
            self._post(ev.ConnectionsCounted(self.module.name, count))

    def _plane_said(self, event: Any) -> None:
        """A link's fate is the machine's; the rest is for people."""
        if isinstance(event, ev.LinkLost | ev.LinkRestored):
            self._post(event)
        else:
            self._journal.tell(self.module.name, event.code, str(event))

    async def close(self) -> None:
        """The agent ends, everything else goes on."""
        self.application.detach()
        await self.plane.close()
