"""What a cloud can answer, in words that do not depend on which cloud it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.model.errors import HafarmError


@dataclass(eq=False)
class ProviderFault(HafarmError):
    """Base of what a provider may raise. `again`: whether asking again can help."""

    again: ClassVar[bool] = False


@dataclass(eq=False)
class ProviderRefused(ProviderFault):
    """The cloud understood the request and said no; asking again will not help."""

    code: ClassVar[str] = "HF7000"
    provider: str
    action: str
    why: str

    def __str__(self) -> str:
        return f"{self.provider} refused {self.action}: {self.why}"


@dataclass(eq=False)
class ProviderUnreachable(ProviderFault):
    """No answer, or one that puts it off: the request may have been carried out. Look before asking again."""

    code: ClassVar[str] = "HF7001"
    again: ClassVar[bool] = True
    provider: str
    action: str
    why: str

    def __str__(self) -> str:
        return f"{self.provider} did not answer {self.action}: {self.why}"


@dataclass(eq=False)
class ForeignOwner(ProviderFault):
    """Something that is no node of the module has the address."""

    code: ClassVar[str] = "HF7002"
    address: str
    detail: str

    def __str__(self) -> str:
        return f"{self.address} is not taken away from where it is: {self.detail}"


@dataclass(eq=False)
class Superseded(ProviderFault):
    """The reign under which something was to be changed had ended before the request left."""

    code: ClassVar[str] = "HF7003"
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} was held back: {self.why}"


@dataclass(eq=False)
class NotInstalled(ProviderFault):
    """The cloud's own library is not there."""

    code: ClassVar[str] = "HF7004"
    provider: str
    missing: str
    remedy: str

    def __str__(self) -> str:
        return f"provider {self.provider} is not installed here ({self.missing}): {self.remedy}"


@dataclass(eq=False)
class PlaceWrong(ProviderFault):
    """What the configuration says does not fit what is there."""

    code: ClassVar[str] = "HF7005"
    subject: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}; {self.remedy}"


@dataclass(eq=False)
class MetadataSilent(ProviderFault):
    """The machine's metadata service gives no answer."""

    code: ClassVar[str] = "HF7006"
    again: ClassVar[bool] = True
    where: str
    why: str

    def __str__(self) -> str:
        return f"the metadata service {self.where} does not answer: {self.why}"


@dataclass(eq=False)
class WorkerSaid(ProviderFault):
    """A fault that a worker told, as it stands there."""

    told: str
    """The fault's own code."""
    text: str
    again_helps: bool

    def __str__(self) -> str:
        return self.text
