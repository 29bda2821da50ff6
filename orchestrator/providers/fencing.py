"""Switching another node's machine off: sent once, and done when the cloud says that it is off."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, runtime_checkable

from orchestrator.model.names import NodeName
from orchestrator.providers.faults import PlaceWrong, ProviderUnreachable
from orchestrator.providers.mover import Leave
from orchestrator.providers.sending import under

LOOK_AGAIN_S: Final = 0.5
LOOK_AGAIN_MAX_S: Final = 4.0
"""A machine takes from some seconds to minutes to be off, and clouds count requests."""
ANSWER_S: Final = 7.0
"""The time-outs of one request together: none is begun that could outlast its order."""


class Power(Enum):
    """What a cloud says of a machine."""

    ON = "on"
    OFF = "off"
    """It does nothing any more, and nothing that it was doing goes on."""
    GOING = "going"
    """On its way off, and not off: what runs there may run still."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """What came of an order."""

    seen: str
    """For people: what the cloud says of which machine."""
    changes: int
    """Requests that were sent to change something; none where it was so already."""


@runtime_checkable
class Fencer(Protocol):
    """A provider that can do it, beside moving addresses. It blocks, and raises ProviderFaults only."""

    def switch_off(self, node: NodeName, gently: bool, leave: Leave) -> Fenced:
        """Returns when the cloud says that the node's machine is off, and never for any other reason.

        `gently`: its system is asked first, and forced where it does not end. A machine that is off, or on
        its way, is sent nothing. The request is sent once: who ordered it asks again, and that looks first.
        """
        ...

    def switch_on(self, node: NodeName, leave: Leave) -> Fenced:
        """Of a machine that is off; returns when the request was taken, and sends nothing where it is on."""
        ...


class Machines(ABC):
    """What a cloud has to be able to do for that; each of the requests once."""

    cloud: str
    """For people."""

    @abstractmethod
    def find(self, *nodes: NodeName) -> Mapping[NodeName, str]:
        """The cloud's name of the one machine that has a node's addresses, looked up now; or PlaceWrong."""

    @abstractmethod
    def power(self, machine: str) -> tuple[Power, str]:
        """What the cloud says, and in its own word."""

    @abstractmethod
    def stop(self, machine: str, gently: bool) -> None:
        """One request."""

    @abstractmethod
    def start(self, machine: str) -> None:
        """One request."""


class ByMachines(ABC):
    """Keeps `Fencer` with a cloud's `Machines`."""

    @abstractmethod
    def _machines(self) -> Machines: ...

    @abstractmethod
    def _mine(self) -> NodeName: ...

    def switch_off(self, node: NodeName, gently: bool, leave: Leave) -> Fenced:
        machines = self._machines()
        machine = self._other(machines, node)
        power, seen = machines.power(machine)
        with under(leave) as sent:
            if power is Power.ON:
                machines.stop(machine, gently)
        if power is not Power.OFF:
            seen = _wait_until_off(machines, machine, seen, leave)
        return Fenced(f"{machine} is {seen}", len(sent))

    def switch_on(self, node: NodeName, leave: Leave) -> Fenced:
        machines = self._machines()
        machine = self._other(machines, node)
        power, seen = machines.power(machine)
        with under(leave) as sent:
            if power is Power.OFF:
                machines.start(machine)
                seen = "being started"
        if power is Power.GOING:
            raise ProviderUnreachable(machines.cloud, f"the start of {machine}", f"it is {seen} still")
        return Fenced(f"{machine} is {seen}", len(sent))

    def _other(self, machines: Machines, node: NodeName) -> str:
        """Never this node's own machine, whatever hafarm.yaml and the cloud say of addresses."""
        found = machines.find(node, self._mine())
        machine = found[node]
        if machine == found[self._mine()]:
            text = f"{machine} has the addresses of this node too"
            raise PlaceWrong(node, text, "correct `addresses` of the nodes")
        return machine


def _wait_until_off(machines: Machines, machine: str, seen: str, leave: Leave) -> str:
    """The cloud's word for it; ProviderUnreachable when the order's time is over before."""
    pause_s = LOOK_AGAIN_S
    while leave.left_s() > pause_s + ANSWER_S:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LOOK_AGAIN_MAX_S)
        try:
            power, seen = machines.power(machine)
        except ProviderUnreachable:
            continue  # it is looked again
        if power is Power.OFF:
            return seen
    raise ProviderUnreachable(machines.cloud, f"that {machine} is off", f"it is {seen} still")
