"""An operator's wish on its way: planned, carried out step by step, followed to its end."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator.agent.lines import Refused
from orchestrator.cluster.orders import AnyStates, Refusal, Step, Wish, plan, reached
from orchestrator.model.names import ModuleName, NodeName

OPERATIONS_KEPT = 200
STEP_TIMEOUT_S = 120.0
"""Longer than an application's stop and start with their default limits; the operation is then `failed`, and
whatever was begun goes on."""
Give = Callable[[ModuleName, Step], Awaitable[tuple[str, str]]]
"""Carry one order to its node: (code, text), code empty when accepted."""


class Operation:
    """One wish: running, then done, failed or refused."""

    def __init__(self, module: ModuleName, wish: Wish) -> None:
        self.id = secrets.token_hex(8)
        self.module = module
        self.wish = wish
        self.state = "running"
        self.steps: list[str] = []
        self.error: dict[str, str] | None = None
        self.result: Any = None
        self.over = asyncio.Event()

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "module": self.module,
            "action": self.wish.action,
            "state": self.state,
            "steps": self.steps,
            "result": self.result,
            "error": self.error,
        }

    def end(self, state: str, code: str = "", text: str = "") -> None:
        self.state = state
        if code or text:
            self.error = {"code": code, "message": text}
        self.over.set()


class Operations:
    """Those under way and the last that ended; one at a time for each module."""

    def __init__(
        self, states: Callable[[ModuleName], AnyStates], give: Give, changed: Callable[[], asyncio.Event]
    ) -> None:
        self._states = states
        self._give = give
        self._changed = changed
        self._all: OrderedDict[str, Operation] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(
        self,
        module: ModuleName,
        nodes: tuple[NodeName, ...],
        wish: Wish,
        verify: Callable[[], Awaitable[Any]] | None = None,
    ) -> Operation:
        """Start it; a refusal that is known at once is in it already. `verify`: what that wish would do."""
        operation = Operation(module, wish)
        self._all[operation.id] = operation
        while len(self._all) > OPERATIONS_KEPT:
            self._all.popitem(last=False)
        if any(
            other.module == module and other.state == "running"
            for other in self._all.values()
            if other != operation
        ):
            operation.end("refused", "HF1204", "another operation on this module is under way")
            return operation
        if wish.action == "verify":
            assert verify is not None
            self._run(self._verify(operation, verify))
            return operation
        steps = plan(wish, nodes, self._states(module))
        if isinstance(steps, Refusal):
            operation.end("refused", steps.code, steps.text)
        else:
            self._run(self._carry_out(operation, steps))
        return operation

    def get(self, number: str) -> Operation | None:
        return self._all.get(number)

    async def close(self) -> None:
        """Nothing is carried out any more; who asks gets no answer, and looks at the next agent's status."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _run(self, deed: Any) -> None:
        task = asyncio.get_running_loop().create_task(deed)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _verify(self, operation: Operation, verify: Callable[[], Awaitable[Any]]) -> None:
        try:
            operation.result = await verify()
        except Exception as fault:  # whatever it was, the operator is told and nothing is changed
            state = "refused" if isinstance(fault, Refused) else "failed"
            operation.end(state, getattr(fault, "refusal", getattr(fault, "code", "HF1000")), str(fault))
            return
        operation.end("done")

    async def _carry_out(self, operation: Operation, steps: list[Step]) -> None:
        for step in steps:
            order = type(step.order).__name__.lower()
            operation.steps.append(f"{order} on {step.node}")
            try:
                code, text = await self._give(operation.module, step)
            except Exception as fault:
                operation.end("failed", getattr(fault, "code", "HF1000"), f"{order} on {step.node}: {fault}")
                return
            if code:
                operation.end("refused", code, f"{step.node}: {text}")
                return
            if not await self._await(operation.module, step):
                operation.end(
                    "failed", "HF1230", f"{order} on {step.node}: not {step.awaits} within its time"
                )
                return
        operation.end("done")

    async def _await(self, module: ModuleName, step: Step) -> bool:
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                while not reached(step, self._states(module)):
                    await self._changed().wait()
        except TimeoutError:
            return False
        return True
