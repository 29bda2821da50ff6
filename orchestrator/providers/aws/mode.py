"""What every way of moving an address in AWS has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, ClassVar, Final

import botocore.exceptions

from orchestrator.providers.aws.account import DENIED, call
from orchestrator.providers.aws.ground import Ground
from orchestrator.providers.faults import ProviderFault, Superseded
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Finding, Sight

AT_ONCE: Final = 4
"""Requests side by side: AWS throttles a burst, and each takes some hundred milliseconds."""
POLICY_HINT: Final = "`hafarm provider policy aws` prints the rights that are needed"


class Mode(ABC):
    """Looks at several addresses together, and moves one."""

    name: ClassVar[str]
    local: ClassVar[bool] = True
    """The address is put on an interface."""
    by_probe: ClassVar[bool] = False
    """Nothing is changed when it moves: a load balancer asks who serves."""
    settings: ClassVar[tuple[str, ...]] = ()
    """What it needs to be told."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    @abstractmethod
    def look(self, vips: Sequence[Vip]) -> Mapping[str, Sight | Exception]:
        """Who has each; in one request where AWS has one."""

    @abstractmethod
    def move(self, vip: Vip, leave: Leave) -> Mapping[str, ProviderFault]:
        """Ask for whatever leads it here; parts that were refused, each with its fault."""

    def release(self, vip: Vip) -> None:
        """Let go of what is still here; by default nothing: a successor takes it from where it is."""
        return

    def check(self, vip: Vip) -> None:
        """PlaceWrong where the configuration does not fit what is there."""
        return

    def settled(self, vip: Vip) -> bool:
        """Whether this machine sees it too, where it can."""
        return True

    def trials(self, vip: Vip) -> Iterable[tuple[str, Callable[[], Any]]]:
        """Requests with DryRun: is each that a claim may need permitted?"""
        return ()

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        """What would disturb a claim, beside what `check` and the trials find."""
        return []

    @staticmethod
    @abstractmethod
    def rights(vips: Sequence[Vip], region: str) -> list[dict[str, Any]]:
        """Statements of the least policy for these addresses; needs nothing but the configuration."""

    # --- for the modes ----------------------------------------------------------------------------------

    def _call(self, request: Callable[[], Any], what: str) -> Any:
        return call(request, what, self._ground.account)

    def _side_by_side(self, deeds: Mapping[str, Callable[[], None]]) -> Mapping[str, ProviderFault]:
        """Each to its end; what failed. An order that is out of date counts for all."""
        failed: dict[str, ProviderFault] = {}
        with ThreadPoolExecutor(AT_ONCE, "part") as threads:
            # Each thread takes the leave of the order along.
            running = {part: threads.submit(copy_context().run, deed) for part, deed in deeds.items()}
        for part, done in running.items():
            fault = done.exception()
            if isinstance(fault, Superseded) or (fault is not None and not isinstance(fault, ProviderFault)):
                raise fault
            if isinstance(fault, ProviderFault):
                failed[part] = fault
        return failed


def permitted(request: Callable[[], Any]) -> str:
    """Of a request with DryRun: nothing where it is permitted, else why not."""
    try:
        request()
    except botocore.exceptions.ClientError as fault:
        error = fault.response["Error"]
        if error["Code"] == "DryRunOperation":
            return ""
        if error["Code"] in DENIED:
            return f"this node's role lacks the right ({error['Code']})"
        return f"{error['Code']}: {error.get('Message', '')}"
    except botocore.exceptions.BotoCoreError as fault:
        return str(fault)
    return ""


def statement(sid: str, actions: Sequence[str], resources: Sequence[str] | None = None) -> dict[str, Any]:
    """One statement of a policy."""
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Action": sorted(actions),
        "Resource": sorted(resources) if resources else "*",
    }


def arn(region: str, what: str, service: str = "ec2") -> str:
    """Of any account: it is this node's own, or that of the role which is taken on."""
    return f"arn:aws:{service}:{region or '*'}:*:{what}"
