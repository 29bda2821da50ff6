"""The register of a witness process, as the agent reaches it: one warm connection, one round trip a bid."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from orchestrator.cluster.register import BidResult
from orchestrator.host.tls import check_witness, client_context
from orchestrator.model.errors import CorruptState, RegisterRefused, RegisterUnreachable
from orchestrator.model.names import ClusterName, ModuleName
from orchestrator.model.record import Outcome, Record


class WitnessRegister:
    """A witness at `url` (https://HOST:PORT), for one cluster. Nothing is retried: a bid may have landed."""

    def __init__(self, url: str, cluster: ClusterName, bundle: str, timeout_s: float) -> None:
        self.url = self.where = url.rstrip("/")
        self.rtt_s: float | None = None
        """Of the newest answer."""
        self.why = ""
        """Why the newest question had no answer; nothing when it had."""
        self._cluster = cluster
        self._door = f"witness.{cluster}"
        # Judged in the handshake: a node of the cluster must not pass for its witness.
        self._context = client_context(bundle, lambda peer: check_witness(peer, cluster))
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def read(self, module: ModuleName) -> Record | None:
        """The record that stands. Raises RegisterRefused or RegisterUnreachable."""
        answer = await self._ask("GET", module, None)
        return self._record(answer.get("record"))

    async def swap(self, expected: Record | None, record: Record) -> BidResult:
        """One bid; UNKNOWN when it may have landed. Raises RegisterRefused when it cannot have."""
        body = {"expected": expected.as_dict() if expected else None, "record": record.as_dict()}
        try:
            answer = await self._ask("PUT", record.module, body)
        except RegisterUnreachable:
            return BidResult(Outcome.UNKNOWN)
        outcome = Outcome(answer.get("outcome", "unknown"))
        return BidResult(outcome, self._record(answer.get("current")))

    async def keep_proving(self, tell: Callable[[str, str], None]) -> None:
        """Nothing: the process at the other end is ours, and its certificate says so."""

    async def prove(self) -> None:
        """It answers this node's certificate. Raises RegisterRefused or RegisterUnreachable."""
        await self._ask("GET", ModuleName("self-test"), None)

    async def close(self) -> None:
        """Let the connection go."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, method: str, module: str, body: dict[str, Any] | None) -> dict[str, Any]:
        session = self._open()
        begun = time.monotonic()
        try:
            async with session.request(
                method,
                f"{self.url}/v1/{self._cluster}/{module}",
                data=json.dumps(body) if body else None,
                server_hostname=self._door,
            ) as response:
                answer: dict[str, Any] = await self._understand(response)
        except aiohttp.ClientConnectorCertificateError as fault:
            self.why = f"its certificate: {_reason(fault.certificate_error)}"
            raise RegisterRefused(self.url, self.why) from fault
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as fault:
            self.why = _reason(fault)
            raise RegisterUnreachable(self.url, self.why) from fault
        self.rtt_s = time.monotonic() - begun
        self.why = ""
        if response.status == 503:
            self.why = self._why(answer)
            raise RegisterUnreachable(self.url, self.why)
        if response.status != 200:
            self.why = self._why(answer)
            raise RegisterRefused(self.url, self.why)
        return answer

    async def _understand(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        """Our own words; whoever has no such page or speaks otherwise is another release, or no witness."""
        try:
            answer = await response.json(content_type=None)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise RegisterRefused(
                self.url, f"HTTP {response.status} and no answer of ours: another release, or no witness"
            )
        return answer

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            connector = aiohttp.TCPConnector(ssl=self._context, limit=8, keepalive_timeout=300)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        return self._session

    def _record(self, data: Any) -> Record | None:
        if data is None:
            return None
        try:
            return Record.from_dict(data)
        except (CorruptState, TypeError) as fault:
            raise RegisterRefused(self.url, f"its answer is no record: {fault}") from fault

    @staticmethod
    def _why(answer: dict[str, Any]) -> str:
        error = answer.get("error")
        return str(error.get("message", error)) if isinstance(error, dict) else str(answer)[:200]


def _reason(fault: Exception) -> str:
    """What went wrong, in words that lead to its cause."""
    if isinstance(fault, ssl.SSLError | aiohttp.ClientSSLError) or "alert" in str(fault).lower():
        return f"no TLS with it: {fault}; it may not know this cluster's bundle"
    return str(fault) or type(fault).__name__
