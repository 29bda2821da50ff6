"""What a decision makes durable, and when: an epoch is on the disk before the gate opens under it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from orchestrator.agent.hands import Hands
from orchestrator.host.store import JsonFile
from orchestrator.mirror.lineage import LINEAGE, Standing
from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.config import MirrorConfig
from orchestrator.model.names import ClusterName, Epoch, ModuleName, NodeName, Nonce
from orchestrator.model.record import Record

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
            nothing,
            nothing,
            cast(Any, self),
            nothing,
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

    async def begin_reign(self, epoch: int, wanted: bool) -> None:
        """Carry out a won bid, until the epoch is in the module's own file."""
        working = asyncio.create_task(self.hands.work())
        self.hands.submit((do.StoreModule(ORDERS, Epoch(epoch), wanted), do.TakeReign(ORDERS, record(epoch))))
        while self.stored() != epoch or not self.asked:  # noqa: ASYNC110 - both are what is waited for
            await asyncio.sleep(0.01)
        working.cancel()


def test_a_reign_does_not_wait_for_an_epoch_that_its_lineage_keeps(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.file.write({"epoch": 3, "wanted": True})
    assert node.hands.load() == (3, True)
    asyncio.run(node.begin_reign(4, True))
    assert node.asked == [("take_reign", 3)]


def test_a_wish_that_changed_is_durable_before_the_reign_begins(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.file.write({"epoch": 3, "wanted": False})
    assert node.hands.load() == (3, False)
    asyncio.run(node.begin_reign(4, True))
    assert node.asked == [("take_reign", 4)]


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
