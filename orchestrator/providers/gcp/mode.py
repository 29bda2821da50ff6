"""What every way of moving an address in GCP has in common."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.cloud import compute_v1

from orchestrator.providers.gcp.account import Account
from orchestrator.providers.gcp.ground import Ground
from orchestrator.providers.modes import Mode
from orchestrator.providers.mover import Leave, Vip
from orchestrator.providers.provider import Finding


@dataclass(frozen=True, slots=True)
class Trial:
    """Permissions that a claim needs on one thing, which Compute Engine can be asked for."""

    client: type[Any]
    words: Mapping[str, str]
    permissions: tuple[str, ...]


class GcpMode(Mode[Ground]):
    """One way."""

    @property
    def _account(self) -> Account:
        return self._ground.account

    def _begin(self, method: str, kind: type[Any], what: str, **words: Any) -> Any:
        """Send a request that changes something, once; its operation. The identifier is for what lies on the
        way: a request that arrives twice has one effect."""
        return self._account.ask(method, kind, what, request_id=str(uuid.uuid4()), **words)

    def trials(self, vip: Vip) -> Iterable[Trial]:
        """What can be asked for without changing anything."""
        return ()

    def lacking(self, vip: Vip) -> Iterable[tuple[str, str]]:
        for trial in self.trials(vip):
            wanted = compute_v1.TestPermissionsRequest(permissions=list(trial.permissions))
            what = f"the rights on {trial.words['resource']}"
            words = {**trial.words, "test_permissions_request_resource": wanted}
            told = self._account.ask("test_iam_permissions", trial.client, what, **words)
            for each in trial.permissions:
                if each not in told.permissions:
                    yield each, f"this node's service account lacks it on {trial.words['resource']}"

    def preflight(self, vip: Vip, repair: bool, leave: Leave) -> list[Finding]:
        """Nodes that no instance is known of."""
        project = self._account.project
        return [
            Finding(
                node,
                f"no instance of project {project} in this node's network has any of its addresses",
                "correct `addresses` of the node, or make its instance anew",
            )
            for node in vip.nodes
            if self._ground.nic(node) is None
        ]

    @staticmethod
    @abstractmethod
    def rights(vips: Sequence[Vip]) -> Iterable[str]:
        """Permissions for these addresses; needs nothing but the configuration."""
