"""What a farm's agent leaves to the next one: who shares the traffic, and who had the buckets before."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from orchestrator.host.process import boot_id
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NodeName
from orchestrator.model.report import Shares


@dataclass(eq=False)
class SharesNotKept(HafarmError):
    """The next agent of this node does not know who had the buckets, and everything else goes on."""

    code: ClassVar[str] = "HF4500"
    where: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.where} cannot be used ({self.why}): connections that outlived a change of the shares may "
            "be reset by the first change after a restart of this agent; make room in the run directory"
        )


class SharesFile:
    """In the module's run directory: a boot ends all connections, and with them what this is about."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "shares.json"

    def write(self, shares: Shares) -> None:
        """A rename is whole for every reader; nothing is synced, because no power cut is survived anyway.

        Raises SharesNotKept, and then nothing is there: what is not up to date is not to be believed later.
        """
        content = {"boot_id": boot_id(), **as_dict(shares)}
        draft = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft.write_text(json.dumps(content))
            os.replace(draft, self._path)
        except OSError as fault:
            for path in (draft, self._path):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise SharesNotKept(str(self._path), fault.strerror or str(fault)) from fault

    def read(self) -> Shares | None:
        """None where nothing was kept in this boot. Raises SharesNotKept where it cannot be read."""
        try:
            content = json.loads(self._path.read_text())
            return from_dict(content) if content["boot_id"] == boot_id() else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as fault:
            raise SharesNotKept(str(self._path), str(fault)) from fault


def as_dict(shares: Shares) -> dict[str, Any]:
    """For a file, or for another node."""
    return {
        "config": shares.config,
        "members": shares.members,
        "former": [_by_value(group) for group in shares.former],
        "fading": [_by_value(group) for group in shares.fading],
    }


def _by_value(group: Mapping[int, Any]) -> list[tuple[Any, list[int]]]:
    """Many buckets have the same few histories: a tenth of the text."""
    found: dict[Any, list[int]] = {}
    for bucket, value in group.items():
        found.setdefault(value, []).append(bucket)
    return list(found.items())


def from_dict(content: Any) -> Shares:
    """ValueError, TypeError or KeyError where it is nothing of ours."""
    return Shares(
        str(content["config"]),
        tuple((NodeName(name), int(percent), bool(live)) for name, percent, live in content["members"]),
        tuple(
            {int(bucket): tuple(map(NodeName, names)) for names, buckets in group for bucket in buckets}
            for group in content["former"]
        ),
        tuple(
            {int(bucket): NodeName(name) for name, buckets in group for bucket in buckets}
            for group in content["fading"]
        ),
    )
