"""A set of nftables tables as a value, and the least transaction that makes one of the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Chain:
    """Its hook, empty where other chains jump to it; and its rules."""

    rules: tuple[str, ...]
    hook: str = ""


@dataclass(frozen=True, slots=True)
class Elements:
    """A set, or a map where `form` has a colon: key to value, or to nothing."""

    form: str
    elements: Mapping[str, str]

    @property
    def kind(self) -> str:
        return "map" if ":" in self.form else "set"


@dataclass(frozen=True, slots=True)
class Table:
    chains: Mapping[str, Chain] = field(default_factory=dict)
    sets: Mapping[str, Elements] = field(default_factory=dict)
    counters: tuple[str, ...] = ()


Ruleset = Mapping[tuple[str, str], Table]
"""Family and name to table."""
NOTHING: Final[Ruleset] = {}


def replacement(after: Ruleset) -> str:
    """Whatever was in tables of these names before, this is in them."""
    gone = [f"{verb} table {' '.join(name)}" for name in after for verb in ("add", "delete")]
    return "\n".join([*gone, change(NOTHING, after)])


def change(before: Ruleset, after: Ruleset) -> str:
    """Only what differs: maps keep their other elements, counters their counts. Empty: nothing does."""
    lines = [f"delete table {' '.join(name)}" for name in before if name not in after]
    for name, table in after.items():
        lines += _change(" ".join(name), before.get(name), table)
    return "\n".join(lines)


def _change(where: str, before: Table | None, after: Table) -> Iterator[str]:
    if before is None:
        yield f"add table {where}"
        before = Table()
    written = [name for name, chain in after.chains.items() if before.chains.get(name) != chain]
    yield from _take_away(where, before, after, written)
    for counter in after.counters:
        if counter not in before.counters:
            yield f"add counter {where} {counter}"
    for name, new in after.sets.items():
        yield from _fill(where, name, before.sets.get(name), new)
    for name in written:
        chain = after.chains[name]
        if name not in before.chains or before.chains[name].hook != chain.hook:
            yield f"add chain {where} {name}" + (f" {{ {chain.hook} }}" if chain.hook else "")
    # Every chain is there before a rule jumps to it.
    for name in written:
        for rule in after.chains[name].rules:
            yield f"add rule {where} {name} {rule}"


def _take_away(where: str, before: Table, after: Table, written: list[str]) -> Iterator[str]:
    """First all rules that go, then what nothing refers to any more."""
    gone = [name for name in before.chains if name not in after.chains]
    for name in (*gone, *written):
        if name in before.chains:
            yield f"flush chain {where} {name}"
    moved = [name for name in written if name in before.chains]
    for name in (*gone, *(name for name in moved if before.chains[name].hook != after.chains[name].hook)):
        yield f"delete chain {where} {name}"
    for name, old in before.sets.items():
        if name not in after.sets:
            yield f"delete {old.kind} {where} {name}"
    for counter in before.counters:
        if counter not in after.counters:
            yield f"delete counter {where} {counter}"


def _fill(where: str, name: str, before: Elements | None, after: Elements) -> Iterator[str]:
    if before is None:
        yield f"add {after.kind} {where} {name} {{ {after.form}; }}"
        before = Elements(after.form, {})
    assert before.form == after.form, f"{name}: a name has one form"
    old, new = before.elements, after.elements
    if old == new:
        return
    if gone := [key for key, value in old.items() if new.get(key) != value]:
        yield f"delete element {where} {name} {{ {', '.join(gone)} }}"
    if come := [(key, value) for key, value in new.items() if old.get(key) != value]:
        listed = ", ".join(f"{key} : {value}" if value else key for key, value in come)
        yield f"add element {where} {name} {{ {listed} }}"
