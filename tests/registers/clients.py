"""The registers of two nodes over one store, closed together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from orchestrator.model.errors import RegisterUnreachable
from orchestrator.model.names import NodeName, Nonce
from orchestrator.model.record import Outcome
from orchestrator.providers.registers.store import Store
from orchestrator.providers.registers.stored import StoredRegister
from tests.mirror.words import CLUSTER, A, B, record

BOTH = frozenset({A, B})


class Clients:
    """`connect(node)`: a register that bids as that node, made when it is first asked for."""

    def __init__(self, stack: AsyncExitStack, make: Callable[[], Store], timeout_s: float) -> None:
        self._stack, self._make, self._timeout_s = stack, make, timeout_s
        self._by_node: dict[NodeName, StoredRegister] = {}

    def __call__(self, node: NodeName) -> StoredRegister:
        if node not in self._by_node:
            register = StoredRegister(self._make(), CLUSTER, node, self._timeout_s)
            self._stack.push_async_callback(register.close)
            self._by_node[node] = register
        return self._by_node[node]

    async def proved(self, *nodes: NodeName) -> None:
        """As agents do when they start; on a loaded machine the store's process takes its time."""
        for node in nodes:
            for _ in range(60):
                with suppress(RegisterUnreachable):
                    await self(node).prove()
                    break


@asynccontextmanager
async def connected(make: Callable[[], Store], timeout_s: float) -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(stack, make, timeout_s)


async def both_in_sync(connect: Clients):
    """The record at epoch 2."""
    await connect.proved(A)
    first = record(1, A, A)
    assert (await connect(A).swap(None, first)).outcome is Outcome.WON, connect(A).why
    both = first.following(primary=A, in_sync=BOTH, nonce=Nonce("1" * 32))
    assert (await connect(A).swap(first, both)).outcome is Outcome.WON, connect(A).why
    return both
