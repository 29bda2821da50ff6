"""Users and groups of this machine: which number has which name, and the reverse."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Iterable
from typing import Any, Final

ASKED_MAX: Final = 1000
"""Numbers and names in one question: each may cost a question to a directory server."""


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
