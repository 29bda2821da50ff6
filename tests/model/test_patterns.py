"""Patterns over paths: what they match, what is no pattern, and that none of them can take for ever."""

from __future__ import annotations

import random
import re

import pytest

from orchestrator.model import patterns
from orchestrator.model.patterns import PatternFault, Patterns, text_of


def matches(pattern: str, path: str | bytes) -> bool:
    text = text_of(path) if isinstance(path, bytes) else path
    return Patterns((pattern,)).start.after(text).accepts


GLOBS = [
    ("*.tmp", ["a.tmp", ".tmp", "é.tmp"], ["a/b.tmp", "a.tmpx", "tmp"]),
    ("**/*.tmp", ["a.tmp", "a/b.tmp", "a/b/c.tmp"], ["a.tmp/b"]),
    ("logs/**", ["logs/a", "logs/a/b"], ["logs", "logsa", "x/logs/a"]),
    ("a?c", ["abc", "aéc"], ["ac", "a/c", "abbc"]),
    ("d?", ["de"], ["d/", "d"]),
    ("a+b", ["a+b"], ["aab"]),
    ("[a-c]x", ["ax", "cx"], ["dx", "a/x"]),
    ("[!a]x", ["bx", "éx"], ["ax", "/x"]),
    ("[.x*]", [".", "x", "*"], ["y", ""]),
    ("a[b", ["a[b"], ["ab"]),
    ("a.b+(c)", ["a.b+(c)"], ["aXb+(c)", "a.bb(c)"]),
    ("**", ["a", "a/b", "a\nb"], []),
    ("a**b", ["ab", "a/b", "ax/yb"], ["a", "b"]),
    ("re", ["re"], ["r", "e"]),
]


@pytest.mark.parametrize(("glob", "yes", "no"), GLOBS, ids=[case[0] for case in GLOBS])
def test_a_glob_matches_as_a_shell_would_and_a_slash_only_by_two_stars(
    glob: str, yes: list[str], no: list[str]
) -> None:
    assert [path for path in yes if not matches(glob, path)] == []
    assert [path for path in no if matches(glob, path)] == []


def test_a_name_that_is_no_utf_8_is_matched_by_its_bytes() -> None:
    assert matches("*.tmp", b"\xff\xfe.tmp")
    assert matches("re:.\\.tmp", b"\xff.tmp")
    assert matches(r"re:\xff\.tmp", b"\xff.tmp")
    assert not matches(r"re:\xff\.tmp", b"\xfe.tmp")
    assert matches(r"re:[\x80-\xff]+", b"\x80\xa0\xff")
    assert not matches(r"re:[\x80-\xff]+", "é".encode())
    assert matches("re:é+", "éé".encode())


def test_a_regular_expression_is_of_the_whole_path() -> None:
    assert matches("re:a/.*", "a/b/c")
    assert not matches("re:a", "a/b")
    assert not matches("re:b", "ab")
    assert matches("re:^a$", "a")
    assert matches("re:(cache|tmp)/[0-9]{2,3}", "tmp/123")
    assert not matches("re:(cache|tmp)/[0-9]{2,3}", "tmp/1234")


WRONG = [
    ("", "without / at either end"),
    ("/a", "without / at either end"),
    ("a/", "without / at either end"),
    ("[]", "names no character"),
    ("[!]", "names no character"),
    ("[z-a]", "z-a runs backwards"),
    ("x" * 501, "longer than 500 characters"),
    ("re:", "is empty"),
    ("re:(a", "a ( without its ) (character 6)"),
    ("re:a)", "a ) without its ( (character 5)"),
    ("re:[a", "a [ without its ]"),
    ("re:[b-a]", "b-a runs backwards"),
    ("re:*a", "* has nothing to repeat"),
    ("re:a**", "repeated twice"),
    ("re:a++", "repeated twice"),
    ("re:a{2", "begins a count"),
    ("re:a{x}", "begins a count"),
    ("re:a{5,2}", "counts go up"),
    ("re:a{999}", "counts go up, and to 255 at most"),
    (r"re:(a)\1", r"\1 is not known (character 8)"),
    (r"re:\ba", r"\b is not known"),
    (r"re:\xg0", "two hexadecimal digits"),
    ("re:a\\", "nothing follows the last backslash"),
    ("re:(?=a)a", "nothing looks back or ahead"),
    ("re:(?P<x>a)", "nothing looks back or ahead"),
    ("re:a$b", "the whole path is matched"),
    ("re:[[:alpha:]]", "write [a-z]"),
    ("re:" + "(" * 60 + "a" + ")" * 60, "more than 50 groups"),
    ("re:(((a{255}){255}){255})", "too large"),
]


@pytest.mark.parametrize(("pattern", "why"), WRONG, ids=[case[0][:20] for case in WRONG])
def test_what_is_no_pattern_is_told_with_its_place(pattern: str, why: str) -> None:
    with pytest.raises(PatternFault) as caught:
        Patterns((pattern,))
    assert why in str(caught.value)


def _made_up(dice: random.Random, depth: int) -> str:
    """A regular expression of our dialect, which Python's engine understands too."""
    match dice.randrange(8 if depth else 4):
        case 0 | 1:
            return dice.choice("abé/.")
        case 2:
            return dice.choice(["[ab]", "[^a]", "[a-b/]", r"\w", r"\d", r"\.", r"[^/]", r"\S"])
        case 3:
            return dice.choice("ab")
        case 4:
            return _made_up(dice, depth - 1) + _made_up(dice, depth - 1)
        case 5:
            return f"({_made_up(dice, depth - 1)}|{_made_up(dice, depth - 1)})"
        case _:
            how = dice.choice(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?"])
            return f"(?:{_made_up(dice, depth - 1)}){how}"


def test_it_is_what_pythons_own_engine_says() -> None:
    dice = random.Random(1)
    yes = 0
    for _ in range(1500):
        pattern = _made_up(dice, 3)
        own, theirs = Patterns((f"re:{pattern}",)), re.compile(pattern, re.DOTALL | re.ASCII)
        for _ in range(12):
            text = "".join(dice.choices("abé/.1", k=dice.randrange(7)))
            expected = theirs.fullmatch(text) is not None
            assert own.start.after(text).accepts == expected, (pattern, text)
            yes += expected
    assert yes > 1000


def test_alive_says_whether_anything_that_begins_so_matches() -> None:
    start = Patterns(("data/**", "re:x[0-9]")).start
    assert [start.after(text).alive for text in ("", "d", "data/", "data/a", "x", "y", "x1", "x1/")] == [
        True,
        True,
        True,
        True,
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "evil", ["re:(a+)+b", "re:(a?){60}(a?){60}a*b", "re:.*a.*a.*a.*a.*b", "**a**a**a**a**b"]
)
def test_nothing_that_an_application_calls_its_files_makes_a_match_long(evil: str) -> None:
    found = Patterns((evil,))
    learnt = 0
    step = found.step

    def counted(state: patterns.State, char: str) -> patterns.State:
        nonlocal learnt
        learnt += 1
        return step(state, char)

    found.step = counted  # type: ignore[method-assign]
    text = "a" * 4000
    assert not found.start.after(text).accepts
    assert learnt <= len(text)
    assert found.start.after(text + "b").accepts


def test_what_is_remembered_is_bounded_and_forgetting_changes_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patterns, "KEPT_MAX", 20)
    found = Patterns(("re:(.*/)?[a-m][^/]*",))
    dice = random.Random(2)
    for _ in range(300):
        text = "".join(chr(dice.randrange(97, 1500)) for _ in range(5))
        assert found.start.after(text).accepts == ("a" <= text[0] <= "m")
        assert found._kept <= 21
