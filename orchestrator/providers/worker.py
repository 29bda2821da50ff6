"""The process that speaks to one cloud for an agent: it can be killed at any moment, and decides nothing.

    python -m orchestrator.providers.worker NAME DESCRIPTOR

JSON lines over the socket that it was born with. It asks the agent before each request that changes
something, and ends with the agent.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from typing import Any, Final

from orchestrator.host import clock
from orchestrator.host.lines import encode
from orchestrator.host.realtime import become_prompt
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import Epoch, NodeName
from orchestrator.providers.faults import NotInstalled, PlaceWrong, ProviderFault, Superseded
from orchestrator.providers.fencing import Fenced, Fencer
from orchestrator.providers.mover import Choice, Make, Mover, Place, place_from_dict
from orchestrator.providers.process import READY, inbox
from orchestrator.providers.provider import Sight

BUILT_IN: Final[Mapping[str, str]] = {
    "aws": "orchestrator.providers.aws.mover:Aws",
    "gcp": "orchestrator.providers.gcp.mover:Gcp",
    "azure": "orchestrator.providers.azure.mover:Azure",
}
"""Name: module and callable. Others are found by the entry point of this group."""
GROUP: Final = "hafarm.providers"
LEAVE_TIMEOUT_S: Final = 3.0
"""An agent that does not say yes within this time says no: its loop stands still, or it is gone."""
ORDERS_MAX: Final = 16
"""At once. An agent has one order per module under way, and looks beside it."""


def find(name: str) -> Make:
    """The provider of this name; NotInstalled says what to install."""
    try:
        if name in BUILT_IN:
            module, _, what = BUILT_IN[name].partition(":")
            made: Make = getattr(importlib.import_module(module), what)
            return made
        for point in entry_points(group=GROUP, name=name):
            found: Make = point.load()
            return found
    except ImportError as fault:
        extra = f"pip install 'hafarm[{name}]'" if name in BUILT_IN else "repair its package"
        raise NotInstalled(name, str(fault), extra) from fault
    raise NotInstalled(name, f"nothing has the entry point {GROUP} of this name", "install its package")


class Agent:
    """The other end of the socket, for all threads of the worker."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[threading.Event, dict[str, Any]]] = {}

    def say(self, message: Mapping[str, Any]) -> None:
        """One line, whole."""
        with self._sending:
            self._connection.sendall(encode(message))

    def may(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the agent says; an empty answer where it says nothing in time."""
        number = next(self._numbers)
        answered, answer = threading.Event(), dict[str, Any]()
        self._asked[number] = answered, answer
        self.say({"event": "may", "number": number, **question})
        answered.wait(LEAVE_TIMEOUT_S)
        del self._asked[number]
        return answer

    def answered(self, message: Mapping[str, Any]) -> None:
        """The agent's word on a question."""
        waiting = self._asked.get(int(message.get("number") or 0))
        if waiting is not None:
            waiting[1].update(message)
            waiting[0].set()


class Order:
    """One order's leave: good while the agent stands by the reign that gave it."""

    def __init__(self, agent: Agent, message: Mapping[str, Any]) -> None:
        self._agent = agent
        self._of = {key: message[key] for key in ("module", "verb", "epoch")}
        self._ends = clock.now() + float(message["time_s"])

    @property
    def epoch(self) -> Epoch:
        return Epoch(int(self._of["epoch"]))

    def check(self, what: str) -> None:
        """Asked anew for each request: the answer holds for as long as the lease that it rests on."""
        if self.left_s() <= 0:
            raise Superseded(what, "its time was over")
        answer = self._agent.may({**self._of, "what": what})
        if not answer.get("yes"):
            raise Superseded(what, str(answer.get("why") or "the agent does not answer"))
        # This process may have stood still since the agent said yes.
        if clock.now() >= float(answer["until"]):
            raise Superseded(what, "the lease ended before it left")

    def left_s(self) -> float:
        return self._ends - clock.now()


class Worker:
    """Orders in, answers out, each order in a thread."""

    def __init__(self, mover: Mover, agent: Agent) -> None:
        self._mover = mover
        self._agent = agent
        self._threads = ThreadPoolExecutor(ORDERS_MAX, "order")
        self._locks: dict[str, threading.Lock] = {}
        self._verbs: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
            "choices": self._choices,
            "observe": self._observe,
            "claim": self._claim,
            "release": self._release,
            "preflight": self._preflight,
            "switch_off": self._switch_off,
            "switch_on": self._switch_on,
        }

    def take(self, message: Mapping[str, Any]) -> None:
        """An order, or the agent's word on a question."""
        if message.get("do") == "leave":
            self._agent.answered(message)
        else:
            self._threads.submit(self._carry_out, message)

    def _carry_out(self, message: Mapping[str, Any]) -> None:
        self._agent.say({"id": message["id"], **answer(lambda: self._verbs[message["do"]](message))})

    def _choices(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        return choices_as_dict(self._mover.choices())

    def _observe(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        return {address: _told(seen) for address, seen in self._mover.observe().items()}

    def _claim(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        expected = frozenset(NodeName(name) for name in message["expected"])
        with self._alone(message["address"]):
            moved = self._mover.claim(message["address"], expected, Order(self._agent, message))
        return {"missing": dict(moved.missing), "changes": moved.changes, "again": moved.again}

    def _release(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._alone(message["address"]):
            self._mover.release(message["address"], Order(self._agent, message))
        return {}

    def _preflight(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        found = self._mover.preflight(bool(message["repair"]), Order(self._agent, message))
        return {"findings": [[one.subject, one.problem, one.remedy] for one in found]}

    def _switch_off(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        node, gently = NodeName(message["node"]), bool(message["gently"])
        return self._fence(message, lambda fencer, order: fencer.switch_off(node, gently, order))

    def _switch_on(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        node = NodeName(message["node"])
        return self._fence(message, lambda fencer, order: fencer.switch_on(node, order))

    def _fence(
        self, message: Mapping[str, Any], deed: Callable[[Fencer, Order], Fenced]
    ) -> Mapping[str, Any]:
        if not isinstance(self._mover, Fencer):
            raise PlaceWrong("fence", "this provider switches no node off", "name another in hafarm.yaml")
        with self._alone(f"node {message['node']}"):
            fenced = deed(self._mover, Order(self._agent, message))
        return {"seen": fenced.seen, "changes": fenced.changes}

    def _alone(self, what: str) -> threading.Lock:
        """What concerns one address, or one node, goes one after the other."""
        return self._locks.setdefault(what, threading.Lock())


def answer(deed: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What came of it, as it travels."""
    try:
        return {"ok": deed()}
    except HafarmError as fault:
        return {"error": fault_as_dict(fault)}
    except Exception as fault:  # A provider's own mistake is told like any other, and costs this order alone.
        return {"error": {"code": "HF1000", "text": f"{type(fault).__name__}: {fault}", "again": False}}


def fault_as_dict(fault: Exception) -> dict[str, Any]:
    """As it travels."""
    code = fault.code if isinstance(fault, HafarmError) else "HF1000"
    again = isinstance(fault, ProviderFault) and fault.again
    return {"code": code, "text": str(fault) or type(fault).__name__, "again": again}


def choices_as_dict(choices: Mapping[str, Choice | Exception]) -> dict[str, Any]:
    """As they travel."""
    return {
        address: {"error": fault_as_dict(choice)}
        if isinstance(choice, Exception)
        else {"mode": choice.mode, "local": choice.local, "why": choice.why}
        for address, choice in choices.items()
    }


def _told(seen: Sight | Exception) -> dict[str, Any]:
    if isinstance(seen, Exception):
        return {"error": fault_as_dict(seen)}
    return {"owner": seen.owner.value, "nodes": sorted(seen.nodes), "detail": seen.detail}


def main() -> None:
    """Until the agent is gone."""
    become_prompt()  # a take-over waits for it, and its library takes a second of CPU to load
    name, descriptor = sys.argv[1], int(sys.argv[2])
    connection = socket.socket(fileno=descriptor)
    agent = Agent(connection)
    messages = inbox(connection)
    worker = _begin(name, place_from_dict(messages.get()["place"]), agent)
    while True:
        worker.take(messages.get())


def _begin(name: str, place: Place, agent: Agent) -> Worker:
    """The library is loaded and its clients are made now, not when a role is taken."""
    made: list[Mover] = []

    def make() -> Mapping[str, Any]:
        # What a library makes while it is loaded stays: to look through it meanwhile is a fifth of the time.
        gc.disable()
        try:
            made.append(find(name)(place))
        finally:
            gc.freeze()
            gc.enable()
        return {}

    told = answer(make)
    agent.say({"event": READY, **told})
    if not made:
        os._exit(0)
    return Worker(made[0], agent)


if __name__ == "__main__":
    main()
