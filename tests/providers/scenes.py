"""One way of moving an address each: what is built for it, and who really has it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from orchestrator.model.config import VipConfig
from orchestrator.model.names import NodeName
from tests.providers.nodes import OWN

STRANGER = "stranger"


class Scene(ABC):
    """A network in a simulated cloud with paris and lyon, and a machine that is neither."""

    mode: ClassVar[str]
    change: ClassVar[str]
    """The request that leads the address to a node."""
    look: ClassVar[str]
    parts: ClassVar[int] = 1
    """How many things lead the address."""
    shared: ClassVar[bool] = True
    """It can have two owners at a time."""
    requests: ClassVar[int] = 0
    """How many of `change` a move from one node to the other takes; 0: one for each part."""
    own: ClassVar[dict[NodeName, str]] = OWN
    vip: VipConfig
    knobs: Any
    """Of the cloud: `turn`, `clear`, `changes(who)`, `log`."""

    @staticmethod
    @abstractmethod
    def cloud() -> AbstractContextManager[Any]:
        """A simulated one, from which a scene is made."""

    @abstractmethod
    def environment(self, node: NodeName) -> dict[str, str]:
        """What a node's own library is told."""

    def reset(self) -> None:
        """Nobody has it, and everything else is as it was built."""
        self.knobs.clear()
        self.give()
        self.knobs.log.clear()

    @abstractmethod
    def give(self, *owners: str) -> None:
        """Let exactly these have it, behind the product's back."""

    @abstractmethod
    def owners(self) -> set[str]:
        """Who has it, or a part of it."""

    def leads(self, call: Any) -> bool:
        """Whether this is the request that leads the address to a node."""
        return bool(call.action == self.change)

    def second_part(self) -> tuple[str, str]:
        """Of what has several: what requests call it, and what people are told."""
        raise NotImplementedError(self.mode)
