"""Compute Engine: maintenance of the host, and a spot machine that is taken back."""

from __future__ import annotations

from typing import Final

from orchestrator.model.notice import Notice
from orchestrator.providers.notices.service import Service

HEADER: Final = {"Metadata-Flavor": "Google"}
INSTANCE: Final = "/computeMetadata/v1/instance"
MAINTENANCE: Final = {
    "MIGRATE_ON_HOST_MAINTENANCE": "host maintenance: the machine is moved while it runs",
    "TERMINATE_ON_HOST_MAINTENANCE": "host maintenance: the machine is stopped",
}


class GcpNotices:
    """Two words, without a time: it comes within a minute, a preemption within thirty seconds."""

    cloud = "gcp"

    def __init__(self, where: str) -> None:
        self._service = Service(where)

    async def read(self) -> tuple[Notice, ...]:
        found = []
        event = await self._service.get(f"{INSTANCE}/maintenance-event", HEADER) or "NONE"
        if event != "NONE":
            found.append(Notice(f"maintenance {event}", MAINTENANCE.get(event, f"host maintenance: {event}")))
        if await self._service.get(f"{INSTANCE}/preempted", HEADER) == "TRUE":
            found.append(Notice("preempted", "preemption: the machine is taken back"))
        return tuple(found)

    async def ready(self, notice: Notice) -> None:
        """Google asks for no answer."""
