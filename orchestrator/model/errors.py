"""The world's failures, made for the person who will read them: a code, the facts, what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(eq=False)
class HafarmError(Exception):
    """Every failure that hafarm tells a person of. `code` is found in `orchestrator.model.codes`."""

    code: ClassVar[str] = "HF1000"

    def __str__(self) -> str:
        return type(self).__name__


@dataclass(eq=False)
class CorruptState(HafarmError):
    """Something that we wrote, or a peer sent, cannot be read back; nothing is guessed from it."""

    code: ClassVar[str] = "HF1001"
    what: str
    why: str
    where: str = ""

    def __str__(self) -> str:
        place = f" {self.where}" if self.where else ""
        return (
            f"{self.what}{place} is damaged ({self.why}); no role is taken on doubt: restore the file from "
            "this node's backup, or move it away so that this node joins as a new one"
        )


@dataclass(eq=False)
class StoreFailed(HafarmError):
    """Our own state could not be made durable; what depended on it was not done."""

    code: ClassVar[str] = "HF1002"
    where: str
    why: str

    def __str__(self) -> str:
        return f"cannot write {self.where}: {self.why}; free space or repair the disk; until then no new role"


@dataclass(eq=False)
class RegisterRefused(HafarmError):
    """The register understood the request and said no; asking again will not help."""

    code: ClassVar[str] = "HF2001"
    where: str
    why: str

    def __str__(self) -> str:
        return f"the register {self.where} refused: {self.why}; check the bundle that this node was given"


@dataclass(eq=False)
class RegisterUnreachable(HafarmError):
    """No answer from the register: what was asked may or may not have happened."""

    code: ClassVar[str] = "HF2002"
    where: str
    why: str

    def __str__(self) -> str:
        return f"the register {self.where} does not answer ({self.why}); a healthy mirror goes on without it"


@dataclass(eq=False)
class Unsupported(HafarmError):
    """This machine cannot do what is asked, now or ever."""

    code: ClassVar[str] = "HF1003"
    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.fix}"


@dataclass(eq=False)
class AddressRefused(HafarmError):
    """An address could not be put on or taken off an interface."""

    code: ClassVar[str] = "HF3001"
    address: str
    why: str

    def __str__(self) -> str:
        return f"virtual IP {self.address}: {self.why}"


@dataclass(eq=False)
class ProcessUnreachable(HafarmError):
    """One of our own processes on this node does not answer on its socket."""

    code: ClassVar[str] = "HF1004"
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} does not answer: {self.why}"


@dataclass(eq=False)
class MemberNotReady(HafarmError):
    """A joiner lacks something that was acknowledged: the bid that takes it in is not sent yet."""

    code: ClassVar[str] = "HF4015"
    peers: str

    def __str__(self) -> str:
        return f"{self.peers} has not confirmed everything acknowledged so far; it is tried again by itself"
