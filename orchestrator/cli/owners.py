"""Do users and groups have the same numbers on all nodes? Files are replicated with numbers, not names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from orchestrator.cli.agent import Agent
from orchestrator.host import names

WAIT_S = 60.0
"""The agent asks every node, each of which may have to ask a directory server."""


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
    told: dict[str, names.Known] = answer["answers"]
    return [text for node in sorted(told) for text in names.compared(here, told[node], node)], answer[
        "unreachable"
    ]
