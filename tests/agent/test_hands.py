"""What a decision makes durable, and when: an epoch is on the disk before the gate opens under it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.agent.hands import Hands
from orchestrator.cluster.register import BidResult
from orchestrator.host.store import JsonFile
from orchestrator.mirror.lineage import LINEAGE, Standing
from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.config import MirrorConfig
from orchestrator.model.errors import StoreFailed
from orchestrator.model.names import ClusterName, Epoch, ModuleName, NodeName, Nonce
from orchestrator.model.record import Outcome, Record
from tests.support.waiting import until

ORDERS = ModuleName("orders")
PARIS = NodeName("paris")


def record(epoch: int) -> Record:
    me = frozenset({PARIS})
    return Record(
        cluster=ClusterName("shop"),
        module=ORDERS,
        epoch=Epoch(epoch),
        primary=PARIS,
        in_sync=me,
        nodes=(PARIS,),
        nonce=Nonce(f"{epoch:032x}"),
        revision=1,
        reason="test",
    )


class Node:
    """Hands over a state directory; what its replicator is asked, and which epoch the disk had then."""

    def __init__(self, state: Path) -> None:
        self.asked: list[tuple[str, int]] = []
        self.posted: list[ev.Event] = []
        self.file = JsonFile(str(state / "modules" / f"{ORDERS}.json"))
        self.lineage = JsonFile(str(state / "volumes" / ORDERS / LINEAGE))
        for folder in (state / "modules", state / "volumes" / ORDERS):
            folder.mkdir(parents=True, exist_ok=True)
        nothing = cast(Any, None)
        module = cast(MirrorConfig, type("Module", (), {"name": ORDERS, "vip": ()}))
        self.hands = Hands(
            module,
            PARIS,
            str(state),
            cast(Any, self),
            nothing,
            cast(Any, self),
            cast(Any, self),
            nothing,
            nothing,
            lambda *_: None,
            self.posted.append,
        )

    async def ask(self, what: str, timeout_s: float = 5.0, **fields: Any) -> Mapping[str, Any]:
        self.asked.append((what, self.stored()))
        return {}

    def stored(self) -> int:
        content = self.file.read()
        return 0 if content is None else int(content["epoch"])

    async def swap(self, expected: Record | None, wish: Record) -> BidResult:
        return BidResult(Outcome.WON, wish)

    async def prepare(self, epoch: Epoch) -> None:
        pass

    def begin_reign(self, epoch: int, wanted: bool) -> None:
        """Carry out a bid and its win, and all that follows from them."""
        asyncio.run(self._begin_reign(epoch, wanted))

    async def _begin_reign(self, epoch: int, wanted: bool) -> None:
        working = asyncio.create_task(self.hands.work())
        for effects in (
            (do.Bid(ORDERS, record(epoch - 1), record(epoch)),),
            (do.StoreModule(ORDERS, Epoch(epoch), wanted), do.TakeReign(ORDERS, record(epoch))),
        ):
            self.hands.submit(effects)
            await until(lambda: self.hands._queue.empty() and not self.hands._tasks)
        working.cancel()


def test_a_reign_does_not_wait_for_an_epoch_that_its_lineage_keeps(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.file.write({"epoch": 3, "wanted": True})
    assert node.hands.load() == (3, True)
    node.begin_reign(4, True)
    assert node.asked == [("expect_reign", 3), ("take_reign", 3)]
    assert node.stored() == 4, "a moment later"


def test_a_wish_that_changed_is_durable_before_the_reign_begins(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.file.write({"epoch": 3, "wanted": False})
    assert node.hands.load() == (3, False)
    node.begin_reign(4, True)
    assert node.asked == [("expect_reign", 3), ("take_reign", 4)]


def test_a_node_that_cannot_write_its_file_when_it_bids_begins_no_reign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path)
    node.file.write({"epoch": 3, "wanted": True})
    assert node.hands.load() == (3, True)

    def refuse(content: Mapping[str, Any]) -> None:
        raise StoreFailed(where="the file", why="Operation not permitted")

    monkeypatch.setattr(node.hands._file, "write", refuse)
    node.begin_reign(4, True)
    assert node.asked == [("expect_reign", 3)]
    assert [event.effect for event in node.posted if isinstance(event, ev.EffectFailed)] == ["StoreModule"]


def test_nothing_is_followed_under_an_epoch_that_an_earlier_decision_could_not_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path)
    node.file.write({"epoch": 3, "wanted": True})
    assert node.hands.load() == (3, True)
    full = True
    write = node.hands._file.write

    def perhaps(content: Mapping[str, Any]) -> None:
        if full:
            raise StoreFailed(where="the file", why="No space left on device")
        write(content)

    monkeypatch.setattr(node.hands._file, "write", perhaps)
    store, follow = do.StoreModule(ORDERS, Epoch(4), True), do.Follow(ORDERS, record(4))

    async def play() -> None:
        nonlocal full
        working = asyncio.create_task(node.hands.work())
        for effects in ((store,), (follow,), (do.AdmitReign(ORDERS, record(4)),)):
            node.hands.submit(effects)  # decided one after the other, before the first was carried out
        await until(node.hands._queue.empty)
        await until(lambda: len(node.posted) == 3)
        full = False
        node.hands.submit((store, follow))
        await until(lambda: bool(node.asked))
        working.cancel()

    asyncio.run(play())
    failed = [event.effect for event in node.posted if isinstance(event, ev.EffectFailed)]
    assert failed == ["StoreModule", "Follow", "AdmitReign"]
    assert node.asked == [("follow", 4)]


def test_an_epoch_that_only_the_lineage_has_is_known_after_a_crash(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.file.write({"epoch": 3, "wanted": True})
    node.lineage.write(Standing().with_reign(record(3).reign).with_reign(record(4).reign).as_dict())
    assert node.hands.load() == (4, True)


def test_a_lineage_that_is_damaged_hides_no_epoch_of_the_modules_own_file(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.file.write({"epoch": 3, "wanted": True})
    (tmp_path / "volumes" / ORDERS / LINEAGE).write_text(json.dumps({"reigns": 7}))
    assert node.hands.load() == (3, True)
