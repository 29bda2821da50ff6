"""Azure: scheduled events, of which those of this machine count, and which wait for its word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from orchestrator.model.notice import Notice
from orchestrator.providers.faults import MetadataSilent
from orchestrator.providers.notices.service import Service, moment

HEADER: Final = {"Metadata": "true"}
EVENTS: Final = "/metadata/scheduledevents"
VERSION: Final = {"api-version": "2020-07-01"}
NAME: Final = "/metadata/instance/compute/name"
NAME_VERSION: Final = {"api-version": "2021-02-01", "format": "text"}


class AzureNotices:
    """One document for all machines of an availability set: only what names this one is its business."""

    cloud = "azure"

    def __init__(self, where: str) -> None:
        self._service = Service(where)
        self._name = ""

    async def read(self) -> tuple[Notice, ...]:
        if not self._name:
            self._name = await self._service.get(NAME, HEADER, NAME_VERSION) or ""
        text = await self._service.get(EVENTS, HEADER, VERSION) or "{}"
        told = self._service.parsed(text, EVENTS)
        try:
            return tuple(self._notices(told.get("Events", ())))
        except (AttributeError, KeyError, TypeError) as fault:
            raise MetadataSilent(self._service.where, f"{EVENTS} is {text:.80}") from fault

    def _notices(self, events: Any) -> Iterator[Notice]:
        for each in events:
            if self._name not in each["Resources"]:
                continue
            kind, at = str(each["EventType"]), str(each.get("NotBefore") or "")
            begun = each.get("EventStatus") == "Started"
            when = "has begun" if begun else f"not before {at}"
            source = str(each.get("EventSource") or "Platform")
            name = str(each["EventId"])
            yield Notice(name, f"{kind} by {source}, {when}", moment(at), "" if begun else name)

    async def ready(self, notice: Notice) -> None:
        """It may begin before its time."""
        body = {"StartRequests": [{"EventId": notice.answer}]}
        status, _ = await self._service.ask(EVENTS, HEADER, "POST", VERSION, body)
        if status != 200:
            raise MetadataSilent(self._service.where, f"HTTP {status} of the answer to {notice.answer}")
