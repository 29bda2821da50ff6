"""What every way of moving an address in AWS has in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import botocore.exceptions

from orchestrator.providers.aws.account import DENIED, call
from orchestrator.providers.aws.ground import Ground
from orchestrator.providers.modes import Mode, policy_hint
from orchestrator.providers.mover import Vip

POLICY_HINT: Final = policy_hint("aws")


class AwsMode(Mode[Ground]):
    """One way."""

    def trials(self, vip: Vip) -> Iterable[tuple[str, Callable[[], Any]]]:
        """Requests with DryRun: is each that a claim may need permitted?"""
        return ()

    def lacking(self, vip: Vip) -> Iterable[tuple[str, str]]:
        for action, request in self.trials(vip):
            if why := permitted(request):
                yield action, why

    @staticmethod
    @abstractmethod
    def rights(vips: Sequence[Vip], region: str) -> list[dict[str, Any]]:
        """Statements of the least policy for these addresses; needs nothing but the configuration."""

    def _call(self, request: Callable[[], Any], what: str) -> Any:
        return call(request, what, self._ground.account)


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
