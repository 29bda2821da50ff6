"""EC2: a spot instance that is taken back or is at risk, and maintenance that is scheduled."""

from __future__ import annotations

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
        found: list[Notice] = []
        if told := await self._parsed("spot/instance-action"):
            action, at = str(told["action"]), str(told["time"])
            found.append(Notice(f"spot {action} {at}", f"spot interruption: {action} at {at}", moment(at)))
        if told := await self._parsed("events/recommendations/rebalance"):
            at = str(told["noticeTime"])
            found.append(Notice(f"rebalance {at}", f"spot rebalance recommendation of {at}"))
        for each in await self._parsed("events/maintenance/scheduled") or ():
            if str(each.get("State", "active")) == "active":
                found.append(_maintenance(each))
        return tuple(found)

    async def ready(self, notice: Notice) -> None:
        """AWS asks for no answer."""

    async def _parsed(self, path: str) -> Any:
        text = await self._get(path)
        if text is None:
            return None
        told = self._service.parsed(text, path)
        try:
            # Whatever is read of it below is there.
            return told if isinstance(told, list) else {**told}
        except TypeError as fault:
            raise MetadataSilent(self._service.where, f"{path} is {text:.80}") from fault

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


def _maintenance(each: Any) -> Notice:
    code, at = str(each.get("Code", "maintenance")), str(each.get("NotBefore", ""))
    text = str(each.get("Description", ""))
    return Notice(
        str(each.get("EventId") or f"{code} {at}"),
        f"{code} not before {at}" + (f" ({text})" if text else ""),
        moment(at),
    )
