"""Fences of this node: ordered by a person or by a take-over, pursued until the cloud says off, and told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator.agent.journal import Telling
from orchestrator.agent.lines import Refused
from orchestrator.mirror import fencing
from orchestrator.mirror.state import Mirror
from orchestrator.model.config import ClusterConfig
from orchestrator.model.names import Epoch, ModuleName, NodeName
from orchestrator.model.record import Record
from orchestrator.providers.clouds import Clouds
from orchestrator.providers.faults import ProviderUnreachable, Superseded, WorkerSaid

FENCE_S: Final = 240.0
"""Then it counts as failed: a system that is asked first has minutes in AWS, 150 s in Azure."""
ATTEMPT_S: Final = 30.0
"""One order to the worker: looks, one request, looks until it shows."""
FIRST_PAUSE_S: Final = 0.5
PAUSE_MAX_S: Final = 8.0
"""Between attempts, doubled each time: a cloud that throttles wants less of us."""
BEAR_S: Final = 60.0
"""So long a fence after a take-over waits for the node's other roles to be taken over too."""
STANDS_AGAIN_S: Final = 0.25
Mirrors = Callable[[], Mapping[ModuleName, Mirror]]


class Fence:
    """One node's: running, then off, failed or given up."""

    def __init__(self, node: NodeName, module: ModuleName, epoch: Epoch, ordered: bool) -> None:
        self.node = node
        self.module = module
        self.epoch = epoch
        self.ordered = ordered
        """By a person; else a take-over wanted it."""
        self.touched = False
        """A request that switches it off was sent, or may have been."""
        self.state = "running"
        self.code = ""
        self.text = "being switched off"
        self.over = asyncio.Event()

    def end(self, state: str, code: str, text: str) -> None:
        self.state, self.code, self.text = state, code, text
        self.over.set()

    def as_dict(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "state": self.state,
            "by": "operator" if self.ordered else "take-over",
            "module": self.module,
            "code": self.code,
            "text": self.text,
        }


class Fencing:
    """Decides nothing that `mirror.fencing` does not say; asked again before each request that leaves."""

    def __init__(
        self,
        config: ClusterConfig,
        me: NodeName,
        clouds: Clouds,
        mirrors: Mirrors,
        journal: Telling,
        total_s: float = FENCE_S,
        attempt_s: float = ATTEMPT_S,
    ) -> None:
        self._config = config
        self._me = me
        self._clouds = clouds
        self._mirrors = mirrors
        self._journal = journal
        self._total_s, self._attempt_s = total_s, attempt_s
        self._nodes = tuple(node.name for node in config.nodes)
        self._fences: dict[NodeName, Fence] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._before: dict[ModuleName, Record] = {}
        """The newest record of each mirror that named somebody else."""
        self._seen: dict[ModuleName, Epoch] = {}
        """Under which epoch a role was judged last."""
        clouds.fence_refused = self.refused_now

    def start(self) -> None:
        """Warm: a take-over has no time for a library to be loaded."""
        if self._config.fence is not None:
            self._clouds.worker(self._config.fence.provider)

    # --- by a take-over -----------------------------------------------------------------------------------

    def stepped(self) -> None:
        """After each step of the node: was a role taken from somebody without his consent?"""
        config = self._config.fence
        if config is None or config.when != "takeover":
            return
        for name, mirror in self._mirrors().items():
            held = mirror.held
            if held is None:
                if mirror.record is not None and mirror.record.primary != self._me:
                    self._before[name] = mirror.record
            elif self._seen.get(name) != held.epoch:
                first = self._before.pop(name, None)
                self._seen[name] = held.epoch
                former = fencing.taken_from(first, mirror)
                if former is not None:
                    self._after_takeover(former, name, held.epoch)

    def _after_takeover(self, node: NodeName, module: ModuleName, epoch: Epoch) -> None:
        running = self._fences.get(node)
        under_way = running is not None and running.state == "running"
        if under_way or fencing.has_let_go(self._mirrors().values(), node, module):
            return
        if unknown := self._unknown(node):
            text = f"{node} is not switched off by itself: whether it serves {unknown} is not known here"
            self._journal.tell(module, "HF7063", text)
            return
        self._begin(Fence(node, module, epoch, ordered=False))

    def _unknown(self, node: NodeName) -> str:
        """Mirrors of the node that this one has no part in: nothing is known of who holds their record."""
        there = [each for each in self._config.mirrors if node in each.nodes and self._me not in each.nodes]
        return ", ".join(each.name for each in there)

    # --- by a person --------------------------------------------------------------------------------------

    def order(self, node: NodeName) -> Fence:
        """Begin, or join what is under way; raises Refused."""
        if self._config.fence is None:
            raise Refused("HF7066", "`cluster: {fence: ...}` of hafarm.yaml names nobody who could do it")
        running = self._fences.get(node)
        if running is not None and running.state == "running":
            return running
        mirrors = self._mirrors().values()
        refusal = fencing.refusal(self._me, node, self._nodes, mirrors)
        if refusal is not None:
            raise Refused(refusal.code, refusal.text)
        mirror = fencing.right(mirrors, node)
        assert mirror is not None
        assert mirror.held is not None
        fence = Fence(node, mirror.module, mirror.held.epoch, ordered=True)
        self._begin(fence)
        return fence

    def get(self, node: str) -> Fence | None:
        """The newest of that node."""
        return self._fences.get(NodeName(node))

    def told(self, node: str, alive: bool) -> str:
        """For people, of a node: what its fence came to, for as long as it is not heard again."""
        fence = self.get(node)
        if fence is None or (alive and fence.state != "running"):
            return ""
        return {"running": "", "off": "switched off: "}.get(fence.state, "NOT known to be off: ") + fence.text

    # --- the work -----------------------------------------------------------------------------------------

    def refused_now(self, node: NodeName, module: ModuleName) -> str:
        """Asked directly before each request leaves."""
        fence = self._fences.get(node)
        if fence is None or fence.state != "running" or fence.module != module:
            return "no fence is under way"
        refusal = self._refusal(fence)
        return refusal.text if refusal is not None else ""

    def _refusal(self, fence: Fence) -> fencing.Refusal | None:
        mirrors = self._mirrors().values()
        refusal = fencing.refusal(self._me, fence.node, self._nodes, mirrors)
        if refusal is None and fencing.epoch_of(mirrors, fence.module) < fence.epoch:
            text = f"this node does not hold the record of {fence.module} any more"
            return fencing.Refusal("HF7064", text)
        if refusal is None and not fence.ordered and fencing.has_let_go(mirrors, fence.node, fence.module):
            return fencing.Refusal("HF7063", f"{fence.node} is heard, and has let go by itself")
        return refusal

    def _begin(self, fence: Fence) -> None:
        self._fences[fence.node] = fence
        who = "by an operator's order" if fence.ordered else f"after the take-over of {fence.module}"
        provider = self._config.fence.provider if self._config.fence else ""
        text = f"{fence.node} is switched off by {provider} {who}, under epoch {fence.epoch}"
        self._journal.tell(fence.module, "HF7060", text)
        task = asyncio.create_task(self._run(fence))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, fence: Fence) -> None:
        state, code, text = await self._pursue(fence)
        fence.end(state, code, text)
        self._journal.tell(fence.module, code, f"{fence.node}: {text}")

    async def _pursue(self, fence: Fence) -> tuple[str, str, str]:
        """How it ended: state, code, text."""
        assert self._config.fence is not None
        verb = self._config.fence.verb
        if why := await self._wait_to_stand(fence):
            return "given up", "HF7063", why
        ended = await self._insist(fence, "switch_off", gently=verb == "stop")
        if ended[0] != "off" or verb != "reset" or not fence.touched:
            # What was off before was switched off by somebody who had his reasons.
            return ended
        # Off it is, whatever comes of this.
        again = await self._insist(fence, "switch_on")
        back = again[2] if again[0] == "off" else f"it is not started again: {again[2]}"
        return "off", "HF7061", f"{ended[2]}; then {back}"

    async def _wait_to_stand(self, fence: Fence) -> str:
        """Until nothing forbids it that may pass; why it is given up."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + BEAR_S
        while (refusal := self._refusal(fence)) is not None:
            if not refusal.passes or loop.time() > ends:
                return refusal.text
            await asyncio.sleep(STANDS_AGAIN_S)
        return ""

    async def _insist(self, fence: Fence, order: str, **more: Any) -> tuple[str, str, str]:
        """Ask, and ask again: the worker looks before it sends, a time-out is neither a no nor a yes."""
        loop = asyncio.get_running_loop()
        ends, pause_s, why = loop.time() + self._total_s, FIRST_PAUSE_S, ""
        while (left_s := ends - loop.time()) > pause_s:
            time_s = min(self._attempt_s, left_s)
            try:
                answer = await self._clouds.switch(
                    fence.node, order, fence.module, fence.epoch, time_s, **more
                )
                fence.touched |= bool(answer["changes"])
                return "off", "HF7061", str(answer["seen"])
            except (WorkerSaid, ProviderUnreachable) as fault:
                why = str(fault)
                held_back = isinstance(fault, WorkerSaid) and fault.told == Superseded.code
                fence.touched |= not held_back
                refusal = self._refusal(fence)
                if held_back and refusal is not None:
                    return "given up", "HF7063", refusal.text
                if isinstance(fault, WorkerSaid) and not (held_back or fault.again_helps):
                    return "failed", "HF7062", why
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
        return "failed", "HF7062", f"{why} (after {self._total_s:g} s)"

    async def close(self) -> None:
        """The agent ends: no request leaves any more."""
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
