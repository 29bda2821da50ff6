"""A metadata service as the agent's loop asks it: without a proxy, within seconds, and a bounded answer."""

from __future__ import annotations

import calendar
import email.utils
import json
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

import aiohttp

from orchestrator.model.notice import Notice
from orchestrator.providers.faults import MetadataSilent

ANSWER_S: Final = 5.0
"""An answer takes a millisecond; Azure's first one of all longer, and then it is asked again."""
BYTES_MAX: Final = 65536


class Source(Protocol):
    """One cloud's."""

    cloud: str
    """As the provider is named."""

    async def read(self) -> tuple[Notice, ...]:
        """What is announced of this machine now; MetadataSilent where that is not known."""
        ...

    async def ready(self, notice: Notice) -> None:
        """Tell the cloud that it need not wait for this machine any longer; MetadataSilent: not told."""
        ...


class Service:
    """Where it is, and how it is asked."""

    def __init__(self, where: str) -> None:
        self.where = where.rstrip("/")

    async def ask(
        self,
        path: str,
        headers: Mapping[str, str],
        method: str = "GET",
        query: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> tuple[int, str]:
        """Status and text of one request."""
        try:
            # A session for each: every few seconds one, and none is kept open beside the agent's other work.
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as session,
                session.request(
                    method, f"{self.where}{path}", headers=headers, params=query, json=body
                ) as answer,
            ):
                told = await answer.content.read(BYTES_MAX)
                return answer.status, told.decode("utf-8", "replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as fault:
            raise MetadataSilent(self.where, str(fault) or type(fault).__name__) from fault

    async def get(
        self, path: str, headers: Mapping[str, str], query: Mapping[str, str] | None = None
    ) -> str | None:
        """The text; None: there is none."""
        status, text = await self.ask(path, headers, query=query)
        if status == 404:
            return None
        if status != 200:
            raise MetadataSilent(self.where, f"HTTP {status} of {path}")
        return text

    def parsed(self, text: str, what: str) -> Any:
        """JSON, or MetadataSilent: an answer that is none is as good as none."""
        try:
            return json.loads(text)
        except ValueError as fault:
            raise MetadataSilent(self.where, f"{what} is no JSON: {text:.80}") from fault


def moment(text: str) -> float | None:
    """Seconds since the epoch, of whichever way a cloud writes a time; None where it says none."""
    try:
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
