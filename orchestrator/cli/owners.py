"""Do users and groups have the same numbers on all nodes? Files are replicated with numbers, not names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from orchestrator.cli.agent import Agent
from orchestrator.host import names

Known = Mapping[str, Mapping[str, Any]]
"""What one machine says of numbers and names, as `orchestrator.host.names.known` does."""
WAIT_S = 60.0
"""The agent asks every node, each of which may have to ask a directory server."""
KINDS = (("user", "users", "user_names"), ("group", "groups", "group_names"))


def differing(
    agent: Agent, module: str, users: Iterable[int], groups: Iterable[int], run_as: str = ""
) -> tuple[list[str], dict[str, str]]:
    """What is not the same here and on another node; and the nodes that could not be asked, with the reason.

    `run_as`: the user that the application runs as, if one is named.
    """
    users, groups = sorted(set(users))[: names.ASKED_MAX], sorted(set(groups))[: names.ASKED_MAX]
    own = names.known(users, groups)
    asked: dict[str, list[Any]] = {
        "users": users,
        "groups": groups,
        "user_names": sorted({*own["users"].values(), *([run_as] if run_as else [])})[: names.ASKED_MAX],
        "group_names": sorted(set(own["groups"].values())),
    }
    here = names.known(**asked)
    answer = agent.post(f"/modules/{quote(module, safe='')}/names", asked, WAIT_S)
    told: dict[str, Known] = answer["answers"]
    return [text for node in sorted(told) for text in compared(here, told[node], node)], answer["unreachable"]


def compared(here: Known, there: Known, node: str) -> Iterator[str]:
    """In words, where one number has two names or one name two numbers."""
    for what, numbers, by_name in KINDS:
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
