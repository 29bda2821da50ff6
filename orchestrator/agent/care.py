"""What an operator asks of the copies beside their roles: carried to the node whose disk can answer it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator.agent.control import Neighbours
from orchestrator.agent.lines import Refused
from orchestrator.agent.replicator import ReplicatorClient
from orchestrator.agent.slowness import said
from orchestrator.cluster.orders import SERVING, States
from orchestrator.host import names
from orchestrator.model.errors import HafarmError, ProcessUnreachable
from orchestrator.model.names import ModuleName, NodeName

LOOK_TIMEOUT_S: Final = 60.0
"""A list of a million files set aside is read in a quarter of it; longer means that the disk hangs."""
NAMES_TIMEOUT_S: Final = 5.0
"""Where users are asked of a server that does not answer, the comparison goes without this node."""
ESTIMATE_TIMEOUT_S: Final = 600.0
"""Ten million files are walked in a minute or two."""
Body = Mapping[str, Any]


class Care:
    """One node's end of it, and the way to the other nodes' ends."""

    def __init__(
        self,
        me: NodeName,
        clients: Mapping[ModuleName, ReplicatorClient],
        nodes_of: Callable[[ModuleName], tuple[NodeName, ...] | None],
        states: Callable[[ModuleName], States],
        neighbours: Neighbours,
    ) -> None:
        self._me = me
        self._clients = clients
        self._nodes_of = nodes_of
        self._states = states
        self._neighbours = neighbours
        self._telling: set[ModuleName] = set()

    @property
    def modules(self) -> list[ModuleName]:
        return list(self._clients)

    async def here(self, module: ModuleName, body: Body) -> Any:
        """Ask this node's own copy. Raises Refused or ProcessUnreachable."""
        client = self._clients[module]
        match body.get("do"):
            case "divergences":
                found = await client.ask_or_look("divergences", LOOK_TIMEOUT_S, "list")
                return found if isinstance(found, list) else found["divergences"]
            case "divergence":
                id, after = _word(body, "id"), _count(body, "after")
                return await client.ask_or_look(
                    "divergence", LOOK_TIMEOUT_S, "show", id, str(after), tag=id, after=after
                )
            case "release":
                id = _word(body, "id")
                return await client.ask_or_look("release", LOOK_TIMEOUT_S, "release", id, tag=id)
            case "resync":
                return await client.ask("resync")
            case "pause_resync":
                return await client.ask("pause_resync", paused=bool(body.get("paused")))
            case "estimate":
                full = bool(body.get("full"))
                return await client.ask_at_leisure("estimate", ESTIMATE_TIMEOUT_S, full=full)
            case "names":
                return await _names(body)
            case "slow":
                client.slowness.hear(body.get("slow"), asyncio.get_running_loop().time())
                return {}
            case other:
                raise Refused("HF1223", f"nothing to ask is named {other!r:.40}")

    async def at_primary(self, module: ModuleName, body: Body) -> Any:
        """Ask the copy that the others follow. Raises Refused where nobody serves."""
        for node, state in self._states(module).items():
            if state is not None and state.role in SERVING:
                return {"module": module, "primary": node, **await self.at(node, module, body)}
        raise Refused("HF1225", "no node serves this module now")

    async def everywhere(self, module: ModuleName, body: Body) -> dict[str, Any]:
        """Ask every node of the module: by node its answer, and of who could not be asked the reason."""
        answers: dict[str, Any] = {}
        unreachable: dict[str, str] = {}
        for node in self._nodes_of(module) or ():
            try:
                answers[node] = await self.at(node, module, body)
            except (Refused, ProcessUnreachable) as fault:
                unreachable[node] = str(fault)
        return {"answers": answers, "unreachable": unreachable}

    async def at(self, node: NodeName, module: ModuleName, body: Body) -> Any:
        """Ask the copy on that node."""
        nodes = self._nodes_of(module) or ()
        if node not in nodes:
            raise Refused("HF1220", f"{node} is no node of this module; these are: {', '.join(nodes)}")
        if node == self._me:
            return await self.here(module, body)
        path = f"/api/v1/modules/{module}/care"
        limit_s = NAMES_TIMEOUT_S if body.get("do") in ("names", "slow") else ESTIMATE_TIMEOUT_S
        answer = await self._neighbours.call(node, "POST", path, dict(body), limit_s + 5)
        if "error" in answer:
            raise Refused(str(answer["error"]["code"]), f"{node}: {answer['error']['message']}")
        return answer["result"]

    async def tell_slow(self, module: ModuleName) -> None:
        """Say on the other nodes which copies are slow, as long as any is: only this one sees it."""
        slow = self._clients[module].slow
        if not slow or module in self._telling:
            return
        self._telling.add(module)
        try:
            for node in self._nodes_of(module) or ():
                if node != self._me:
                    # One that does not hear it is shown as away, or runs an older release.
                    with contextlib.suppress(Refused, ProcessUnreachable):
                        await self.at(node, module, {"do": "slow", "slow": said(slow)})
        finally:
            self._telling.discard(module)

    async def owners_differ(self, module: ModuleName, peer: NodeName) -> list[str]:
        """In words, which owners of the files are others on that node. Raises Refused, ProcessUnreachable."""
        found = await self._clients[module].ask_at_leisure("owners", LOOK_TIMEOUT_S)
        asked = {kind: list(found[kind])[: names.ASKED_MAX] for kind in ("users", "groups")}
        own = await self.here(module, {"do": "names", **asked})
        asked |= {f"{kind[:-1]}_names": sorted(set(own[kind].values())) for kind in ("users", "groups")}
        here = await self.here(module, {"do": "names", **asked})
        there = await self.at(peer, module, {"do": "names", **asked})
        return list(names.compared(here, there, peer))

    async def divergences(self, module: ModuleName) -> dict[str, Any]:
        """Of every node of the module; who could not be asked is named with the reason."""
        asked = await self.everywhere(module, {"do": "divergences"})
        found = [
            {"module": module, "node": node, **each}
            for node, kept in asked["answers"].items()
            for each in kept
        ]
        return {"divergences": found, "unreachable": asked["unreachable"]}


def _word(body: Body, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value or "/" in value or value.startswith("."):
        raise Refused("HF1223", f"{name} = {value!r:.40} is no name")
    return value


def _count(body: Body, name: str) -> int:
    value = body.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise Refused("HF1223", f"{name} = {value!r:.40} is no number")
    return value


def code_of(fault: HafarmError) -> str:
    """The code to tell: a process's own where it refused."""
    return fault.refusal if isinstance(fault, Refused) else fault.code


async def _names(body: Body) -> dict[str, dict[str, Any]]:
    """Users and groups of this machine, as many as one question may ask for."""
    asked = {
        "users": _list(body, "users", int),
        "groups": _list(body, "groups", int),
        "user_names": _list(body, "user_names", str),
        "group_names": _list(body, "group_names", str),
    }
    try:
        async with asyncio.timeout(NAMES_TIMEOUT_S):
            return await asyncio.to_thread(names.known, **asked)
    except TimeoutError as fault:
        raise ProcessUnreachable("the directory of users", f"no answer in {NAMES_TIMEOUT_S:g} s") from fault


def _list(body: Body, name: str, kind: type) -> list[Any]:
    value = body.get(name, [])
    if (
        not isinstance(value, list)
        or len(value) > names.ASKED_MAX
        or not all(isinstance(each, kind) and not isinstance(each, bool) for each in value)
    ):
        raise Refused("HF1223", f"{name} is no list of at most {names.ASKED_MAX}")
    return value
