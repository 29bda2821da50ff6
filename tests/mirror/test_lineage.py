"""Two copies meet: each row of the verdict table."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.mirror.lineage import (
    REIGNS_MAX,
    Joiner,
    Position,
    Ruling,
    Standing,
    Verdict,
    judge,
    position_fits,
)
from orchestrator.model.errors import CorruptState
from orchestrator.model.names import ClusterName, Epoch, ModuleName, NodeName, Nonce
from orchestrator.model.record import Record, Reign

A, B = NodeName("a"), NodeName("b")
STREAM = "0" * 32


def reigns(*marks: str) -> tuple[Reign, ...]:
    return tuple(Reign(Epoch(int(mark[1:])), Nonce(mark[0] * 32)) for mark in marks)


def meet(
    primary: tuple[Reign, ...],
    joiner: tuple[Reign, ...],
    in_sync: frozenset[NodeName] = frozenset({A}),
    empty: bool = False,
    resumes: bool = False,
    log_why: str = "",
    inconsistent: bool = False,
    may_adopt: bool = False,
) -> Ruling:
    record = Record(ClusterName("shop"), ModuleName("db"), Epoch(9), A, in_sync, (A, B), Nonce("f" * 32))
    standing = Standing(joiner, inconsistent, None, may_adopt)
    return judge(record, Standing(primary), Joiner(B, standing, empty, resumes), not log_why, log_why)


BOTH = frozenset({A, B})


def test_a_first_start_copies_everything() -> None:
    ruling = meet(reigns("a1"), (), empty=True)
    assert (ruling.verdict, ruling.copy, ruling.full) == (Verdict.FIRST_START, True, True)


def test_files_of_unknown_history_are_refused_until_the_operator_adopts() -> None:
    assert meet(reigns("a1"), ()).refused
    adopted = meet(reigns("a1"), (), may_adopt=True)
    assert adopted.copy
    assert adopted.set_aside


def test_an_interrupted_first_copy_is_begun_again() -> None:
    assert meet(reigns("a1"), (), inconsistent=True).copy


def test_an_interrupted_copy_over_adopted_files_still_sets_them_aside() -> None:
    assert meet(reigns("a1"), (), inconsistent=True, may_adopt=True).set_aside


def test_an_unbroken_member_goes_on_by_number() -> None:
    assert meet(reigns("a1"), reigns("a1"), BOTH, resumes=True).verdict is Verdict.IN_SYNC


def test_a_restarted_member_is_bid_out_before_anything_is_copied_into_it() -> None:
    ruling = meet(reigns("a1"), reigns("a1"), BOTH)
    assert ruling.verdict is Verdict.UNPROVEN
    assert not ruling.copy


def test_an_ancestor_outside_the_set_is_a_target_and_costs_what_changed() -> None:
    ruling = meet(reigns("a1", "a2"), reigns("a1"))
    assert (ruling.verdict, ruling.copy, ruling.full, ruling.set_aside) == (
        Verdict.TARGET,
        True,
        False,
        False,
    )


def test_a_copy_that_was_edited_from_outside_is_set_aside_before_its_delta() -> None:
    record = Record(
        ClusterName("shop"), ModuleName("db"), Epoch(9), A, frozenset({A}), (A, B), Nonce("f" * 32)
    )
    edited = Joiner(B, Standing(reigns("a1"), edited=True), empty=False, resumes=False)
    ruling = judge(record, Standing(reigns("a1", "a2")), edited, True, "")
    assert (ruling.verdict, ruling.copy, ruling.full, ruling.set_aside) == (Verdict.EDITED, True, False, True)
    assert judge(record, Standing(reigns("a1", "a2")), edited, False, "no baseline").full


def test_a_log_that_does_not_fit_means_a_full_compare_said_aloud() -> None:
    ruling = meet(reigns("a1", "a2"), reigns("a1"), log_why="the log has no baseline")
    assert ruling.full
    assert ruling.why == "the log has no baseline"


@pytest.mark.parametrize("members", [frozenset({A}), BOTH])
def test_diverged_copies_are_never_merged_in_silence(members: frozenset[NodeName]) -> None:
    ruling = meet(reigns("a1", "a2"), reigns("a1", "b2"), members, resumes=True)
    assert ruling.verdict is Verdict.DIVERGED
    assert ruling.set_aside
    assert ruling.alarm


def test_a_reign_of_which_nobody_heard_is_no_divergence() -> None:
    begun = Standing(reigns("a1")).with_reign(reigns("b2")[0], unheard=True)
    primary = Standing(reigns("a1", "a3"))
    ruling = _judged(primary, Joiner(B, begun, empty=False, resumes=True))
    assert (ruling.verdict, ruling.copy, ruling.full, ruling.set_aside) == (
        Verdict.UNHEARD,
        True,
        False,
        False,
    )
    heard = dataclasses.replace(begun, unheard=None)
    assert _judged(primary, Joiner(B, heard, empty=False, resumes=False)).verdict is Verdict.DIVERGED
    later = begun.with_reign(reigns("b4")[0])
    assert _judged(primary, Joiner(B, later, empty=False, resumes=False)).verdict is Verdict.DIVERGED
    again = begun.with_reign(reigns("b4")[0], unheard=True)
    assert _judged(primary, Joiner(B, again, empty=False, resumes=False)).verdict is Verdict.DIVERGED
    edited = dataclasses.replace(begun, edited=True)
    assert _judged(primary, Joiner(B, edited, empty=False, resumes=False)).set_aside


def test_a_member_whose_reign_nobody_heard_of_does_not_go_on_by_number() -> None:
    begun = Standing(reigns("a1")).with_reign(reigns("b2")[0], unheard=True)
    both = Record(ClusterName("shop"), ModuleName("db"), Epoch(9), A, BOTH, (A, B), Nonce("f" * 32))
    ruling = judge(both, Standing(reigns("a1", "a3")), Joiner(B, begun, False, True), True, "")
    assert ruling.verdict is Verdict.UNPROVEN


def test_what_an_order_gave_up_is_set_aside_though_the_last_reign_was_unheard() -> None:
    begun = Standing(reigns("a1")).with_reign(reigns("b2")[0], unheard=True)
    promoted = Standing(reigns("a1")).with_reign(reigns("a3")[0], forced=True)
    ruling = _judged(promoted, Joiner(B, begun, empty=False, resumes=False))
    assert (ruling.verdict, ruling.set_aside) == (Verdict.GIVEN_UP, True)


def test_a_copy_brings_its_sources_history_and_nothing_else_stays() -> None:
    begun = Standing(reigns("a1"), True, Position(STREAM, 7), edited=True, may_adopt=True).with_reign(
        reigns("b2")[0], unheard=True
    )
    source = Standing(reigns("a1", "a3"), forced=reigns("a3")[0])
    after = begun.with_copy(source, Position("1" * 32, 3))
    assert after == Standing(
        source.reigns, position=Position("1" * 32, 3), former=Position(STREAM, 7), forced=source.forced
    )


def test_equal_numbers_with_other_nonces_are_no_ancestors() -> None:
    assert meet(reigns("a1", "a2"), reigns("a1", "c2")).verdict is Verdict.DIVERGED


def test_a_reign_that_only_fell_out_of_the_longer_lineage_is_no_divergence() -> None:
    history = reigns(*(f"a{epoch}" for epoch in range(1, REIGNS_MAX + 3)))
    assert meet(history[-REIGNS_MAX:], history[:REIGNS_MAX]).verdict is Verdict.TARGET
    assert (
        meet(history[5:9], history[:9]).verdict is Verdict.DIVERGED or meet(history[5:9], history[:9]).refused
    )


def test_unrelated_copies_are_refused() -> None:
    assert meet(reigns("a1"), reigns("b1")).refused


def test_a_primary_that_knows_less_than_a_joiner_stops() -> None:
    ruling = meet(reigns("a1"), reigns("a1", "b2"))
    assert ruling.verdict is Verdict.ROLLED_BACK
    assert ruling.refused


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_no_pair_of_histories_is_overwritten_without_setting_aside_what_only_it_has(
    left: list[str], right: list[str]
) -> None:
    ours = reigns(*(f"{mark}{number}" for number, mark in enumerate(left, 1)))
    theirs = reigns(*(f"{mark}{number}" for number, mark in enumerate(right, 1)))
    ruling = meet(ours, theirs, empty=not theirs)
    if set(theirs) - set(ours):
        assert ruling.refused or ruling.set_aside


def test_a_position_that_fell_back_does_not_fit() -> None:
    baseline = Position(STREAM, 5)
    assert position_fits(baseline, Standing(position=Position(STREAM, 5))) == ""
    assert "fell back" in position_fits(baseline, Standing(position=Position(STREAM, 4)))
    assert "another stream" in position_fits(baseline, Standing(position=Position("1" * 32, 9)))
    assert position_fits(None, Standing(position=Position(STREAM, 5)))
    assert position_fits(baseline, Standing())


def test_a_copy_that_went_one_stream_further_than_the_log_knows_still_fits() -> None:
    """The primary was cut after the copy was whole, and before it had heard so."""
    baseline = Position(STREAM, 5)
    further = Standing().at(Position(STREAM, 5)).at(Position("1" * 32, 2)).at(Position("1" * 32, 9))
    assert position_fits(baseline, further) == ""
    assert position_fits(Position("1" * 32, 9), further) == ""
    fell_back = Standing().at(Position(STREAM, 4)).at(Position("1" * 32, 9))
    assert "fell back" in position_fits(baseline, fell_back)
    two_further = further.at(Position("2" * 32, 1))
    assert "another stream" in position_fits(baseline, two_further)
    forgotten = dataclasses.replace(further, position=None)
    assert "unknown" in position_fits(baseline, forgotten)
    assert "another stream" in position_fits(baseline, forgotten.at(Position("2" * 32, 1)))


def test_a_standing_travels_and_damage_is_never_an_empty_lineage() -> None:
    standing = Standing(
        reigns("a1", "b2"), True, Position(STREAM, 7), True, True, former=Position("1" * 32, 3)
    ).with_reign(reigns("b3")[0], unheard=True)
    assert Standing.from_dict(standing.as_dict()) == standing
    elder = {key: value for key, value in standing.as_dict().items() if key not in ("former", "unheard")}
    assert Standing.from_dict(elder) == dataclasses.replace(standing, former=None, unheard=None)
    for field in (each for each in dataclasses.fields(Standing) if each.name in elder):
        damaged = {key: value for key, value in standing.as_dict().items() if key != field.name}
        with pytest.raises(CorruptState):
            Standing.from_dict(damaged)


def test_only_the_last_reigns_are_kept() -> None:
    standing = Standing()
    for epoch in range(1, 101):
        standing = standing.with_reign(Reign(Epoch(epoch), Nonce("a" * 32)))
    assert len(standing.reigns) == REIGNS_MAX
    assert standing.epoch == 100


def test_who_was_ahead_of_a_promoted_copy_is_set_aside_though_their_reigns_look_alike() -> None:
    # A followed under B's reign, no member, when the operator promoted it: B holds more of that reign.
    promoted = Standing(reigns("a1")).with_reign(reigns("b2")[0], forced=True)
    ahead = Joiner(B, Standing(reigns("a1")), empty=False, resumes=False)
    ruling = _judged(promoted, ahead)
    assert ruling.verdict is Verdict.GIVEN_UP
    assert (ruling.copy, ruling.full, ruling.set_aside) == (True, True, True)
    later = promoted.with_reign(reigns("b3")[0])
    assert _judged(later, ahead).set_aside
    assert _judged(Standing.from_dict(later.as_dict()), ahead).set_aside

    returned = Joiner(B, Standing(promoted.reigns), empty=False, resumes=False)
    assert not _judged(later, returned).set_aside


def _judged(primary: Standing, joiner: Joiner) -> Ruling:
    alone = Record(
        ClusterName("shop"), ModuleName("db"), Epoch(9), A, frozenset({A}), (A, B), Nonce("f" * 32)
    )
    return judge(alone, primary, joiner, True, "")
