"""Users and groups: which number has which name on this machine, the reverse, and what is not so there."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

ASKED_MAX: Final = 1000
"""Numbers and names in one question: each may cost a question to a directory server."""

Known = Mapping[str, Mapping[str, Any]]
"""What one machine says of numbers and names, as `known` does."""
_KINDS: Final = (("user", "users", "user_names"), ("group", "groups", "group_names"))


def known(
    users: Iterable[int] = (),
    groups: Iterable[int] = (),
    user_names: Iterable[str] = (),
    group_names: Iterable[str] = (),
) -> dict[str, dict[str, Any]]:
    """By kind, of each number its name and of each name its number; what nobody knows is left out.

    Keys are text, as they are in JSON.
    """
    return {
        "users": _found(users, lambda number: pwd.getpwuid(number).pw_name),
        "groups": _found(groups, lambda number: grp.getgrgid(number).gr_name),
        "user_names": _found(user_names, lambda name: pwd.getpwnam(name).pw_uid),
        "group_names": _found(group_names, lambda name: grp.getgrnam(name).gr_gid),
    }


def _found(wanted: Iterable[Any], ask: Callable[[Any], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in list(wanted)[:ASKED_MAX]:
        try:
            found[str(each)] = ask(each)
        except (KeyError, OverflowError, ValueError):
            continue  # nobody has it here
    return found


def compared(here: Known, there: Known, node: str) -> Iterator[str]:
    """In words, where one number has two names or one name two numbers."""
    for what, numbers, by_name in _KINDS:
        for number in sorted({*here[numbers], *there[numbers]}, key=int):
            mine, theirs = here[numbers].get(number), there[numbers].get(number)
            if mine != theirs:
                yield f"{what} {number} is {mine or 'nobody'} here and {theirs or 'nobody'} on {node}"
        for name in sorted({*here[by_name], *there[by_name]}):
            mine, theirs = here[by_name].get(name), there[by_name].get(name)
            if mine != theirs:
                yield f"{what} {name} is {_number(mine)} here and {_number(theirs)} on {node}"


def _number(number: int | None) -> str:
    return "nobody" if number is None else str(number)
