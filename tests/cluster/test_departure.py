"""What a node does about announcements, told as decisions."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.cluster.departure import (
    LEAD_S,
    RETRY_S,
    Answer,
    Departure,
    Effect,
    Here,
    Keep,
    Move,
    Say,
)
from orchestrator.model.names import ModuleName
from orchestrator.model.notice import Notice

SHOP, WEB = ModuleName("shop"), ModuleName("web")
SOON = Notice("spot", "spot interruption: terminate")
PRIMARY = Here("mirror", serves=True, gone=False)
STANDBY = Here("mirror", serves=False, gone=True)
TAKES = Here("farm", serves=True, gone=False)
DRAINS = Here("farm", serves=False, gone=False)
AWAY = Here("farm", serves=False, gone=True)
WALL = 1_780_000_000.0


class Node:
    """One node's departure, told what it sees."""

    def __init__(self, leaves: bool = True) -> None:
        self.state = Departure(leaves)
        self.now = 100.0
        self.said: list[str] = []

    def sees(self, *found: Notice, here: Mapping[ModuleName, Here], after: float = 5.0) -> list[Effect]:
        self.now += after
        decided = self.state.looked(self.now, WALL + self.now, found, here)
        return self._did(decided.state, decided.effects)

    def ends(self, order: Move, code: str = "") -> list[Effect]:
        decided = self.state.ended(self.now, order, code, "because")
        return self._did(decided.state, decided.effects)

    def _did(self, state: Departure, effects: tuple[Effect, ...]) -> list[Effect]:
        self.state = state
        self.said += [each.code for each in effects if isinstance(each, Say)]
        return [each for each in effects if not isinstance(each, Say)]


SWAP = Move(SHOP, "swap")


def test_a_primary_gives_its_role_away_once() -> None:
    node = Node()
    assert node.sees(here={SHOP: PRIMARY}) == []
    assert node.sees(SOON, here={SHOP: PRIMARY}) == [SWAP]
    assert node.said == ["HF7070", "HF7071"]
    assert node.sees(SOON, here={SHOP: PRIMARY}) == [], "it is under way"
    assert node.ends(SWAP) == []
    assert node.sees(SOON, here={SHOP: STANDBY}) == []
    assert node.sees(SOON, here={SHOP: PRIMARY}, after=100) == [], "the other may have heard the same"


def test_who_only_tells_moves_nothing() -> None:
    node = Node(leaves=False)
    assert node.sees(SOON, here={SHOP: PRIMARY, WEB: TAKES}) == []
    assert node.sees(here={SHOP: PRIMARY, WEB: TAKES}) == []
    assert node.said == ["HF7070", "HF7073"]


def test_a_second_notice_is_another_reason() -> None:
    node = Node()
    node.sees(SOON, here={SHOP: PRIMARY})
    node.ends(SWAP)
    other = Notice("reboot", "system-reboot")
    assert node.sees(SOON, other, here={SHOP: PRIMARY}) == [SWAP]


def test_where_nobody_can_take_over_it_is_said_once_and_tried_again() -> None:
    node = Node()
    assert node.sees(SOON, here={SHOP: PRIMARY}) == [SWAP]
    assert node.ends(SWAP, "HF1206") == []
    assert node.said[-1] == "HF7072"
    assert node.sees(SOON, here={SHOP: PRIMARY}) == []
    assert node.sees(SOON, here={SHOP: PRIMARY}, after=RETRY_S) == [SWAP]
    node.ends(SWAP, "HF1206")
    assert node.said.count("HF7072") == 1


def test_another_operation_is_waited_for_without_a_word() -> None:
    node = Node()
    node.sees(SOON, here={SHOP: PRIMARY})
    node.ends(SWAP, "HF1204")
    assert "HF7072" not in node.said
    assert node.sees(SOON, here={SHOP: PRIMARY}, after=RETRY_S) == [SWAP]


def test_a_farms_node_drains_and_comes_back_when_it_is_over() -> None:
    node = Node()
    drain, undrain = Move(WEB, "drain"), Move(WEB, "undrain")
    assert node.sees(SOON, here={WEB: TAKES}) == [Keep(frozenset({WEB})), drain], "on the disk first"
    assert node.sees(SOON, here={WEB: DRAINS}) == []
    node.ends(drain)
    assert node.sees(SOON, here={WEB: AWAY}) == []
    assert node.sees(here={WEB: AWAY}) == [undrain]
    assert node.sees(here={WEB: AWAY}) == []
    assert node.ends(undrain) == [Keep(frozenset())]
    assert node.sees(here={WEB: TAKES}) == []


def test_a_farm_that_cannot_be_left_is_not_gone_back_to() -> None:
    node = Node()
    node.sees(SOON, here={WEB: TAKES})
    assert node.ends(Move(WEB, "drain"), "HF6027") == [Keep(frozenset())]
    assert node.said[-1] == "HF7072"
    assert node.sees(here={WEB: TAKES}, after=RETRY_S) == []


def test_a_farm_that_an_operator_stopped_stays_stopped() -> None:
    node = Node()
    node.sees(SOON, here={WEB: AWAY})
    assert node.sees(here={WEB: AWAY}) == []


def test_what_is_weeks_ahead_is_told_and_awaited() -> None:
    node = Node()
    later = Notice("i", "instance-retirement", at=WALL + 14 * 86400)
    assert node.sees(later, here={SHOP: PRIMARY}) == []
    assert node.said == ["HF7070"]
    node.now = 14 * 86400 - LEAD_S - 6
    assert node.sees(later, here={SHOP: PRIMARY}) == []
    assert node.sees(later, here={SHOP: PRIMARY}) == [SWAP]


ASKS = Notice("event-1", "Reboot", answer="event-1")


def test_a_place_that_waits_is_told_only_after_the_last_role_is_gone() -> None:
    node = Node()
    swap, drain = node.sees(ASKS, here={SHOP: PRIMARY, WEB: TAKES})[::2]
    assert (swap, drain) == (SWAP, Move(WEB, "drain"))
    node.ends(SWAP)
    assert node.sees(ASKS, here={SHOP: STANDBY, WEB: DRAINS}) == []
    assert node.sees(ASKS, here={SHOP: STANDBY, WEB: AWAY}) == [], "its order is not over"
    node.ends(Move(WEB, "drain"))
    assert node.sees(ASKS, here={SHOP: STANDBY, WEB: AWAY}) == [Answer(ASKS)]
    assert node.sees(ASKS, here={SHOP: STANDBY, WEB: AWAY}) == []


def test_a_place_that_waits_is_told_nothing_while_a_role_is_stuck_here() -> None:
    node = Node()
    node.sees(ASKS, here={SHOP: PRIMARY})
    node.ends(SWAP, "HF1206")
    assert node.sees(ASKS, here={SHOP: PRIMARY}) == []
    node.sees(ASKS, here={SHOP: PRIMARY}, after=RETRY_S)
    node.ends(SWAP)
    assert node.sees(ASKS, here={SHOP: STANDBY}) == [Answer(ASKS)]


def test_an_answer_that_was_not_heard_is_given_again() -> None:
    node = Node()
    assert node.sees(ASKS, here={}) == [Answer(ASKS)]
    node.state = node.state.not_answered(ASKS)
    assert node.sees(ASKS, here={}) == [Answer(ASKS)]
