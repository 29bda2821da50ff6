"""A register in a store that only compares tags: the judgement is ours, and the tag makes it hold."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from orchestrator.cluster.register import BidResult, judge
from orchestrator.model.errors import CorruptState, RegisterRefused, RegisterUnreachable
from orchestrator.model.names import ClusterName, ModuleName, NodeName
from orchestrator.model.record import Outcome, Record, Reign
from orchestrator.providers.registers.store import Held, Store, StoreRefused, StoreUnfit

TRIES: Final = 3
"""Of a self-test, when somebody else tests under the same name at the same time."""
PROVE_TIMEOUT_S: Final = 10.0
"""Seven requests and two pauses; a store that needs longer is too slow for any bid."""
PROVE_AGAIN_S: Final = 10.0
"""Between two attempts to prove a register that did not answer or did not pass."""
_T = TypeVar("_T")


class StoredRegister:
    """One cluster's records in a store, for one node. Nothing is retried: a bid may have landed.

    The witness judges bids itself; here the bidder does, over what it read, and the store's comparison makes
    sure that what was judged is what is replaced.
    """

    def __init__(self, store: Store, cluster: ClusterName, me: str, timeout_s: float) -> None:
        """`me`: the node that bids, or whoever tests; the self-test's key is named for it."""
        self.where = store.where
        self.rtt_s: float | None = None
        """Of the newest answer."""
        self.why = ""
        """Why the newest question had no good answer; nothing when it had."""
        self._store = store
        self._cluster = cluster
        self._me = NodeName(me)
        self._timeout_s = timeout_s
        self._known: dict[ModuleName, tuple[Record, Held]] = {}
        """What was read or won last: with its tag a bid is one round trip."""
        self._proved = False
        self._proving = asyncio.Lock()

    # --- a register -----------------------------------------------------------------------------------------

    async def read(self, module: ModuleName) -> Record | None:
        """The record that stands. Raises RegisterRefused or RegisterUnreachable."""
        found = await self._read(module)
        return found[0] if found else None

    async def swap(self, expected: Record | None, record: Record) -> BidResult:
        """One bid; UNKNOWN when it may have landed. Raises RegisterRefused when it cannot have."""
        try:
            await self.prove()
            return await self._within(self._timeout_s, self._swap(expected, record))
        except RegisterUnreachable:
            return BidResult(Outcome.UNKNOWN)

    async def close(self) -> None:
        """Let the store go."""
        await self._store.close()

    async def _swap(self, expected: Record | None, record: Record) -> BidResult:
        known = self._known.get(record.module)
        fresh = known is None or _reign(known) != _reign(expected)
        if fresh:
            known = await self._read(record.module)
        judgement = judge(known[0] if known else None, expected, record, self._me)
        if judgement.accepted is None and not fresh:
            known = await self._read(record.module)
            judgement = judge(known[0] if known else None, expected, record, self._me)
        if judgement.won and judgement.accepted is None:
            return BidResult(Outcome.WON, record)  # this very bid, sent before
        if judgement.accepted is None:
            if _reign(known) == _reign(expected):
                raise StoreRefused(self.where, judgement.why, "compare hafarm.yaml on all nodes")
            return BidResult(Outcome.LOST, known[0] if known else None)
        written = await self._put(self._key(record.module), _encoded(record), known[1] if known else None)
        if written is not None:
            self._known[record.module] = (record, written)
            return BidResult(Outcome.WON, record)
        return await self._of_a_refused_tag(expected, record)

    async def _of_a_refused_tag(self, expected: Record | None, record: Record) -> BidResult:
        """What was replaced between reading and writing, or by an earlier sending of this bid."""
        known = await self._read(record.module)
        if known is not None and judge(known[0], expected, record, self._me).won:
            # Our own, or `expected` still: then a write that was under way made the store refuse ours.
            won = known[0].reign == record.reign
            return BidResult(Outcome.WON, record) if won else BidResult(Outcome.UNKNOWN)
        return BidResult(Outcome.LOST, known[0] if known else None)

    async def _read(self, module: ModuleName) -> tuple[Record, Held] | None:
        self._known.pop(module, None)
        held = await self._get(self._key(module))
        if held is None:
            return None
        try:
            record = Record.from_dict(json.loads(held.content))
        except (CorruptState, ValueError, TypeError, AttributeError) as fault:
            self.why = f"{self._key(module)} holds no record: {fault}"
            raise StoreRefused(self.where, self.why, "restore its newest state") from fault
        if (record.cluster, record.module) != (self._cluster, module):
            self.why = f"{self._key(module)} is the record of {record.cluster}/{record.module}"
            raise StoreRefused(self.where, self.why, "give each cluster a name or prefix of its own")
        self._known[module] = (record, held)
        return record, held

    def _key(self, module: ModuleName) -> str:
        return f"{self._cluster}/{module}.json"

    # --- the self-test --------------------------------------------------------------------------------------

    async def keep_proving(self, tell: Callable[[str, str], None]) -> None:
        """Until it is proved: no bid has to wait for that. `tell` hears each new reason why it is not."""
        told = ""
        while True:
            try:
                await self.prove()
                return
            except RegisterRefused as fault:
                if str(fault) != told:
                    told = str(fault)
                    tell(fault.code, told)
            except RegisterUnreachable:
                pass  # its reads say so
            await asyncio.sleep(PROVE_AGAIN_S)

    async def prove(self) -> None:
        """See once, under a key of its own, that a stale tag is refused. StoreUnfit when it is not.

        A store that ignores the condition of a write, as some imitations do, grants to everybody.
        """
        if self._proved:
            return
        async with self._proving:
            if not self._proved:
                await self._within(PROVE_TIMEOUT_S, self._prove())
                self._proved = True

    async def _prove(self) -> None:
        key = f"{self._cluster}/.test/{self._me}"
        for _ in range(TRIES):
            before = await self._get(key)
            first = await self._put(key, _noise(), before)
            if first is None:
                continue  # another process of this name tests too
            await asyncio.sleep(self._store.pause_s)
            second = await self._put(key, _noise(), first)
            if second is None:
                continue
            await asyncio.sleep(self._store.pause_s)
            if await self._put(key, _noise(), first) is not None:
                raise self._unfit("it took a write whose tag was stale")
            if await self._put(key, _noise(), None) is not None:
                raise self._unfit("it took a write that was to create what was there already")
            if await self._get(key) == second:
                return
        raise self._unfit(f"what was written under {key} was not what it held then, {TRIES} times")

    def _unfit(self, why: str) -> StoreUnfit:
        self.why = why
        return StoreUnfit(self.where, why)

    # --- the store ------------------------------------------------------------------------------------------

    async def _get(self, key: str) -> Held | None:
        return await self._timed(self._store.get(key))

    async def _put(self, key: str, content: bytes, expected: Held | None) -> Held | None:
        return await self._timed(self._store.put(key, content, expected))

    async def _timed(self, question: Awaitable[_T]) -> _T:
        begun = time.monotonic()
        try:
            answer = await self._within(self._timeout_s, question)
        except (RegisterRefused, RegisterUnreachable) as fault:
            self.why = fault.why
            raise
        self.rtt_s = time.monotonic() - begun
        self.why = ""
        return answer

    async def _within(self, seconds: float, question: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(seconds):
                return await question
        except TimeoutError as fault:
            raise RegisterUnreachable(self.where, f"no answer within {seconds:g} s") from fault


def _reign(known: tuple[Record, Held] | Record | None) -> Reign | None:
    record = known[0] if isinstance(known, tuple) else known
    return record.reign if record is not None else None


def _encoded(record: Record) -> bytes:
    return json.dumps(record.as_dict(), separators=(",", ":")).encode()


def _noise() -> bytes:
    """Never the same twice: some stores make the tag of the content."""
    return json.dumps({"self-test": secrets.token_hex(16)}).encode()
