"""Globs and regular expressions over paths, matched in a time that grows with the path and with nothing else.

Python's own engine tries one way after the other, and whoever names files could make it try for hours. Here
all ways are followed at once: a set of places in the patterns, which becomes another set with each character.
The sets that were seen are kept, so that a character mostly costs one look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

REGULAR: Final = "re:"
"""What a pattern begins with that is a regular expression; every other one is a glob."""
PATTERN_MAX: Final = 500
"""Characters of one pattern: a line that a person can still read."""
PLACES_MAX: Final = 10_000
"""In all patterns of one directory; of so many at once a character takes some milliseconds."""
COUNT_MAX: Final = 255  # of {m,n}: as long as a name is
NESTED_MAX: Final = 50
KEPT_MAX: Final = 50_000
"""Steps that are remembered, some ten megabytes; then all are forgotten and learnt again."""


class PatternFault(ValueError):
    """Why something is no pattern, for the person who wrote it."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of these ranges, or of none of them."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool = False
    never: str = ""

    def fits(self, char: str) -> bool:
        within = any(low <= char <= high for low, high in self.ranges)
        return within != self.negated and char != self.never


@dataclass(frozen=True, slots=True)
class Row:
    """One after the other."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of these."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same `low` to `high` times; None: without end."""

    part: Part
    low: int
    high: int | None


Part = Chars | Row | Either | Repeat

_ANY: Final = Chars((), negated=True)
_SLASH: Final = Chars((("/", "/"),))
_IN_NAME: Final = Chars((("/", "/"),), negated=True)
_DIGIT: Final = (("0", "9"),)
_WORD: Final = (("0", "9"), ("A", "Z"), ("_", "_"), ("a", "z"))
_SPACE: Final = (("\t", "\r"), (" ", " "))
_CLASSES: Final = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROLS: Final = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}


def text_of(path: bytes) -> str:
    """A path as the patterns see it: a byte that is no UTF-8 is a character of its own."""
    return path.decode("utf-8", "surrogateescape")


def parsed(pattern: str) -> Part:
    """A glob, or a regular expression behind `re:`; PatternFault."""
    if len(pattern) > PATTERN_MAX:
        raise PatternFault(f"longer than {PATTERN_MAX} characters")
    if pattern.startswith(REGULAR):
        return _Regular(pattern[len(REGULAR) :]).parsed()
    return _glob(pattern)


# --- globs -------------------------------------------------------------------------------------------------


def _glob(glob: str) -> Part:
    """fnmatch, but `/` is matched by `**` only; `**/` also matches no directory at all."""
    if not glob or glob.startswith("/") or glob.endswith("/"):
        raise PatternFault("a pattern names what is below the directory, without / at either end")
    parts: list[Part] = []
    at = 0
    while at < len(glob):
        end = glob.find("]", at)
        if glob.startswith("**/", at):
            parts.append(Repeat(Row((Repeat(_ANY, 0, None), _SLASH)), 0, 1))
            at += 3
        elif glob.startswith("**", at):
            parts.append(Repeat(_ANY, 0, None))
            at += 2
        elif glob[at] == "*":
            parts.append(Repeat(_IN_NAME, 0, None))
            at += 1
        elif glob[at] == "?":
            parts.append(_IN_NAME)
            at += 1
        elif glob[at] == "[" and end > 0:
            parts.append(_glob_class(glob[at + 1 : end]))
            at = end + 1
        else:
            parts.append(_exactly(glob[at]))
            at += 1
    return Row(tuple(parts))


def _glob_class(inside: str) -> Chars:
    negated = inside.startswith("!")
    chars = inside[negated:]
    if not chars:
        raise PatternFault(f"[{inside}] names no character")
    ranges = []
    while chars:
        low, chars = chars[0], chars[1:]
        high = low
        if len(chars) > 1 and chars[0] == "-":
            high, chars = chars[1], chars[2:]
        ranges.append(_range(low, high))
    return Chars(tuple(ranges), negated, "/")


def _exactly(char: str) -> Chars:
    return Chars(((char, char),))


def _range(low: str, high: str) -> tuple[str, str]:
    if low > high:
        raise PatternFault(f"{low}-{high} runs backwards")
    return low, high


# --- regular expressions -----------------------------------------------------------------------------------


class _Regular:
    """Reads one: literals, `.`, classes, groups, `|`, `* + ? {m,n}`. Nothing that looks back or ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parsed(self) -> Part:
        if not self._text:
            raise PatternFault("the regular expression is empty")
        part = self._either()
        if self._at < len(self._text):
            raise self._fault("a ) without its (")
        return part

    def _fault(self, why: str) -> PatternFault:
        return PatternFault(f"{why} (character {len(REGULAR) + self._at + 1})")

    def _next(self) -> str:
        """The character that is read next; empty at the end."""
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _either(self) -> Part:
        parts = [self._row()]
        while self._take("|"):
            parts.append(self._row())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _row(self) -> Part:
        parts: list[Part] = []
        while self._next() and self._next() not in "|)":
            part = self._one()
            parts.append(self._repeated(part))
        return parts[0] if len(parts) == 1 else Row(tuple(parts))

    def _one(self) -> Part:
        if self._at == 0 and self._take("^"):
            return Row(())  # the whole path is matched anyway
        if self._at == len(self._text) - 1 and self._take("$"):
            return Row(())
        char = self._next()
        if char in "^$":
            raise self._fault(f"the whole path is matched: write \\{char} for the character")
        if char in "*+?{":
            raise self._fault(f"{char} has nothing to repeat: write \\{char} for the character")
        self._at += 1
        match char:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case ".":
                return _ANY
            case "\\":
                return self._escape()
            case _:
                return _exactly(char)

    def _group(self) -> Part:
        if self._next() == "?" and not self._take("?:"):
            raise self._fault("of groups only ( and (?: are known: nothing looks back or ahead")
        self._depth += 1
        if self._depth > NESTED_MAX:
            raise self._fault(f"more than {NESTED_MAX} groups inside one another")
        part = self._either()
        if not self._take(")"):
            raise self._fault("a ( without its )")
        self._depth -= 1
        return part

    def _repeated(self, part: Part) -> Part:
        bounds = self._bounds()
        if bounds is None:
            return part
        self._take("?")  # as few as possible: of a whole path that changes nothing
        if self._next() and self._next() in "*+?{":
            raise self._fault("repeated twice: put a group around the first")
        return Repeat(part, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        if not self._take("{"):
            return None
        low, comma, high = self._text[self._at :].partition("}")[0].partition(",")
        if "}" not in self._text[self._at :] or not _is_count(low or "0") or not _is_count(high or "0"):
            raise self._fault("{ begins a count such as {2,5}: write \\{ for the character")
        if not low and not high:
            raise self._fault("{ begins a count such as {2,5}")
        self._at = self._text.index("}", self._at) + 1
        least = int(low or 0)
        most = (int(high) if high else None) if comma else least
        if max(least, most or 0) > COUNT_MAX or (most is not None and most < least):
            raise self._fault(f"counts go up, and to {COUNT_MAX} at most")
        return least, most

    def _escape(self) -> Chars:
        char = self._next()
        if char and char in "dws":
            self._at += 1
            return Chars(_CLASSES[char])
        if char and char in "DWS":
            self._at += 1
            return Chars(_CLASSES[char.lower()], negated=True)
        return _exactly(self._escaped())

    def _escaped(self) -> str:
        """One character, behind a backslash."""
        char = self._next()
        if not char:
            raise self._fault("nothing follows the last backslash")
        if char.isascii() and char.isalnum() and char != "x" and char not in _CONTROLS:
            raise self._fault(f"\\{char} is not known")
        self._at += 1
        if char == "x":
            digits = self._text[self._at : self._at + 2]
            if len(digits) != 2 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
                raise self._fault("two hexadecimal digits follow \\x")
            self._at += 2
            number = int(digits, 16)
            return chr(number) if number < 0x80 else text_of(bytes([number]))
        return _CONTROLS.get(char, char)

    def _class(self) -> Chars:
        negated = self._take("^")
        ranges: list[tuple[str, str]] = []
        first = True
        while first or not self._take("]"):
            first = False
            if not self._next():
                raise self._fault("a [ without its ]")
            if self._text.startswith("[:", self._at):
                raise self._fault("write [a-z] for [[:lower:]], and \\[ for the character")
            if self._text[self._at : self._at + 2] in ("\\d", "\\w", "\\s"):
                ranges += _CLASSES[self._text[self._at + 1]]
                self._at += 2
                continue
            low = high = self._class_char()
            if self._next() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._class_char()
            ranges.append(_range(low, high))
        return Chars(tuple(ranges), negated)

    def _class_char(self) -> str:
        if self._take("\\"):
            return self._escaped()
        char = self._next()
        self._at += 1
        return char


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 5


# --- matching ----------------------------------------------------------------------------------------------


class State(dict[str, "State"]):
    """What the patterns can still become after some characters; by the next character, the next state."""

    __slots__ = ("_patterns", "accepts", "alive", "places")

    def __init__(self, patterns: Patterns, places: frozenset[int]) -> None:
        super().__init__()
        self._patterns = patterns
        self.places = places
        self.accepts = _END in places
        """One of the patterns matches what was read."""
        self.alive = bool(places)
        """Something that begins so matches."""

    def __missing__(self, char: str) -> State:
        return self._patterns.step(self, char)

    def after(self, text: str) -> State:
        """The state when this was read too."""
        state = self
        for char in text:
            state = state[char]
        return state


_END: Final = 0


class Patterns:
    """Several at once; PatternFault where one of them is none, or all of them are too much."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._chars: list[Chars | None] = [None]
        """By place: what is read there; None: nothing is."""
        self._follow: list[tuple[int, ...]] = [()]
        self._closed: dict[int, frozenset[int]] = {}
        self._states: dict[frozenset[int], State] = {}
        self._kept = 0
        first: set[int] = set()
        for pattern in patterns:
            first |= self._reached(self._built(parsed(pattern), _END))
        self.start = State(self, frozenset(first))

    def step(self, state: State, char: str) -> State:
        """Where this character leads, found and remembered."""
        places: set[int] = set()
        for place in state.places:
            chars = self._chars[place]
            if chars is not None and chars.fits(char):
                for follower in self._follow[place]:
                    places |= self._reached(follower)
        if self._kept > KEPT_MAX:
            self._forget()
        known = frozenset(places)
        found = self._states.setdefault(known, State(self, known))
        state[char] = found
        self._kept += 1
        return found

    def _forget(self) -> None:
        """Whoever is on the way keeps its state, which learns anew."""
        self._kept = 0
        forgotten, self._states = self._states, {}
        self.start.clear()
        for state in list(forgotten.values()):
            state.clear()

    # --- places -------------------------------------------------------------------------------------------

    def _place(self, chars: Chars | None, follow: tuple[int, ...]) -> int:
        if len(self._chars) > PLACES_MAX:
            raise PatternFault(f"the patterns are too large: more than {PLACES_MAX} places in all")
        self._chars.append(chars)
        self._follow.append(follow)
        return len(self._chars) - 1

    def _built(self, part: Part, then: int) -> int:
        """The place at which this begins, when `then` follows it."""
        match part:
            case Chars():
                return self._place(part, (then,))
            case Row(parts):
                for each in reversed(parts):
                    then = self._built(each, then)
                return then
            case Either(parts):
                return self._place(None, tuple(self._built(each, then) for each in parts))
            case Repeat(inner, low, high):
                begin = then
                if high is None:
                    begin = self._place(None, ())
                    self._follow[begin] = (self._built(inner, begin), then)
                else:
                    for _ in range(high - low):
                        begin = self._place(None, (self._built(inner, begin), then))
                for _ in range(low):
                    begin = self._built(inner, begin)
                return begin

    def _reached(self, place: int) -> frozenset[int]:
        """Where a character can be read, or the end, from here on without reading any."""
        known = self._closed.get(place)
        if known is None:
            known = self._closed[place] = frozenset(self._walk(place))
        return known

    def _walk(self, place: int) -> Iterator[int]:
        seen: set[int] = set()
        pending = [place]
        while pending:
            at = pending.pop()
            if at in seen:
                continue
            seen.add(at)
            if at == _END or self._chars[at] is not None:
                yield at
            else:
                pending += self._follow[at]
