"""EC2: a spot instance that is taken back or is at risk, and maintenance that is scheduled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from orchestrator.model.notice import Notice
from orchestrator.providers.faults import MetadataSilent
from orchestrator.providers.notices.service import Service, moment

TOKEN: Final = "X-aws-ec2-metadata-token"
TTL: Final = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_S: Final = 21600
"""As long as a token may live; one per question would be throttled."""
DATA: Final = "/latest/meta-data"


class AwsNotices:
    """Version 2 of the service, the only one that is spoken."""

    cloud = "aws"

    def __init__(self, where: str) -> None:
        self._service = Service(where)
        self._token = ""

    async def read(self) -> tuple[Notice, ...]:
        spot = await self._parsed("spot/instance-action")
        rebalance = await self._parsed("events/recommendations/rebalance")
        maintenance = await self._parsed("events/maintenance/scheduled")
        try:
            return tuple(_notices(spot, rebalance, maintenance))
        except (AttributeError, KeyError, TypeError) as fault:
            why = f"its words are not those that are known: {type(fault).__name__} {fault}"
            raise MetadataSilent(self._service.where, why) from fault

    async def ready(self, notice: Notice) -> None:
        """AWS asks for no answer."""

    async def _parsed(self, path: str) -> Any:
        text = await self._get(path)
        return None if text is None else self._service.parsed(text, path)

    async def _get(self, path: str) -> str | None:
        """Nothing where there is none; a token that is refused is renewed once."""
        if not self._token:
            await self._renew()
        status, text = await self._service.ask(f"{DATA}/{path}", {TOKEN: self._token})
        if status == 401:
            await self._renew()
            status, text = await self._service.ask(f"{DATA}/{path}", {TOKEN: self._token})
        if status not in (200, 404):
            raise MetadataSilent(self._service.where, f"HTTP {status} of {path}")
        return text if status == 200 else None

    async def _renew(self) -> None:
        status, text = await self._service.ask("/latest/api/token", {TTL: str(TOKEN_S)}, "PUT")
        if status != 200:
            raise MetadataSilent(self._service.where, f"no token, HTTP {status}")
        self._token = text


def _notices(spot: Any, rebalance: Any, maintenance: Any) -> Iterator[Notice]:
    """Of what the service says, each None where it says nothing."""
    if spot:
        action, at = str(spot["action"]), str(spot["time"])
        yield Notice(f"spot {action} {at}", f"spot interruption: {action} at {at}", moment(at))
    if rebalance:
        at = str(rebalance["noticeTime"])
        yield Notice(f"rebalance {at}", f"spot rebalance recommendation of {at}")
    for each in maintenance or ():
        if str(each.get("State", "active")) == "active":
            yield _maintenance(each)


def _maintenance(each: Any) -> Notice:
    code, at = str(each.get("Code", "maintenance")), str(each.get("NotBefore", ""))
    text = str(each.get("Description", ""))
    return Notice(
        str(each.get("EventId") or f"{code} {at}"),
        f"{code} not before {at}" + (f" ({text})" if text else ""),
        moment(at),
    )
