"""What is replicated of a directory, by `exclude` and `only`; what a rename may carry along."""

from __future__ import annotations

import itertools
import random

import pytest

from orchestrator.model.choice import Choice

NAMES = (b"data", b"logs", b"a", b"b.tmp", b"c.db")
PATHS = [b"/".join(parts) for count in (1, 2, 3) for parts in itertools.product(NAMES, repeat=count)]


def test_without_patterns_nothing_is_local_and_everything_moves() -> None:
    choice = Choice()
    assert choice.everything
    assert not any(choice.is_local(path, kind) for path in PATHS for kind in (True, False))
    assert choice.moves(b"a", b"data/x")


def test_what_is_excluded_is_local_with_all_below_it() -> None:
    choice = Choice(exclude=("logs", "**/*.tmp"))
    for path in PATHS:
        local = path.split(b"/")[0] == b"logs" or b"b.tmp" in path.split(b"/")
        assert choice.is_local(path, False) == choice.is_local(path, True) == local, path


def test_only_means_what_matches_with_all_below_it_and_the_directories_that_lead_there() -> None:
    choice = Choice(only=("data/a", "x/y/*.db"))
    replicated = [b"data/a", b"data/a/logs", b"data/a/b.tmp/c.db", b"x/y/q.db"]
    ways = [b"data", b"x", b"x/y"]
    others = [b"logs", b"data/logs", b"x/z", b"x/y/q", b"x/y/z/q.db"]
    for path in replicated:
        assert not choice.is_local(path, False), path
        assert not choice.is_local(path, True), path
    for path in ways:
        assert choice.is_local(path, False), path
        assert not choice.is_local(path, True), path
    for path in others:
        assert choice.is_local(path, False), path
        assert choice.is_local(path, True), path
    assert not choice.is_local(b"", True)


def test_a_directory_whose_contents_alone_are_named_is_replicated_itself() -> None:
    choice = Choice(only=("data/**",))
    assert not choice.is_local(b"data", True)
    assert choice.is_local(b"data", False)  # a file of this name holds nothing that could match
    assert not choice.is_local(b"data/a/b", False)


def test_a_pattern_that_may_match_anywhere_replicates_every_directory_and_no_other_file() -> None:
    choice = Choice(only=("**/*.db",))
    assert not choice.is_local(b"a/data", True)
    assert choice.is_local(b"a/data", False)
    assert not choice.is_local(b"a/c.db", False)


def test_exclude_wins_over_only() -> None:
    choice = Choice(exclude=("data/logs", "**/*.tmp"), only=("data",))
    assert not choice.is_local(b"data/a", False)
    for path in (b"data/logs", b"data/logs/a", b"data/b.tmp", b"logs"):
        assert choice.is_local(path, False), path


def test_a_name_in_a_directory_is_judged_as_its_path_is() -> None:
    choice = Choice(exclude=("re:.*/[0-9]+",), only=("data/**", "re:(.*/)?\\xff.*"))
    for path in [*PATHS, b"data/12", b"\xff", b"a/\xff\xfe", b"a/\xff/12"]:
        above, _, name = path.rpartition(b"/")
        for kind in (True, False):
            assert choice.is_local(path, kind) == choice.is_local_in(above, name, kind), path
    assert not choice.is_local(b"a/\xff\xfe", False)
    assert choice.is_local(b"a/\xff/12", False)


CHOICES = [
    Choice(exclude=("**/*.tmp",)),
    Choice(exclude=("logs/*.tmp",)),
    Choice(exclude=("*.tmp", "re:data/.*[0-9]")),
    Choice(only=("data/**",)),
    Choice(only=("data", "logs"), exclude=("data/a",)),
    Choice(only=("**/*.db",)),
    Choice(only=("re:(a|data)/.*", "logs/c.db")),
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: f"{choice.exclude}{choice.only}")
def test_a_directory_that_may_move_takes_nothing_across_the_border(choice: Choice) -> None:
    dice = random.Random(3)
    moved = 0
    for old, new in itertools.product(PATHS[:30], repeat=2):
        if not choice.moves(old, new):
            continue
        moved += 1
        for below in dice.sample(PATHS, 20):
            for kind in (True, False):
                here, there = old + b"/" + below, new + b"/" + below
                assert choice.is_local(here, kind) == choice.is_local(there, kind), (old, new, below)
    assert moved > len(PATHS[:30])


def test_a_directory_moves_where_the_patterns_see_no_difference() -> None:
    names = Choice(exclude=("**/*.tmp",))
    assert names.moves(b"a", b"data/x")
    paths = Choice(exclude=("logs/*.tmp",))
    assert paths.moves(b"a", b"b")
    assert not paths.moves(b"logs", b"b")
    only = Choice(only=("data/**", "logs/**"))
    assert only.moves(b"data/a", b"data/b")
    assert only.moves(b"data/a", b"logs/b")
    assert not only.moves(b"data/a", b"b")
    assert only.moves(b"x", b"y")
