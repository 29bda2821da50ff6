"""etcd as a store: one transaction a bid, over the JSON gateway of its members; it needs no library."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from typing import Any, Final

import aiohttp

from orchestrator.model.config import EtcdConfig
from orchestrator.model.errors import RegisterUnreachable
from orchestrator.providers.registers.store import Held, StoreRefused

UNAUTHENTICATED: Final = 16
REFUSALS: Final = {
    # gRPC's codes, as the gateway tells them: the request was understood and nothing was done.
    3: "name a `user` and `password_file` if the ensemble asks who comes",
    7: "give the user a role that may read and write the prefix",
    12: "etcd 3.4 or later is needed",
    UNAUTHENTICATED: "check `user` and `password_file`",
}
ANSWER_BYTES_MAX: Final = 256 * 1024
"""Two records and their frame are below 16 KiB."""


class EtcdStore:
    """Keys below a prefix of one ensemble. Any member will do: one that does not answer goes to the end."""

    pause_s = 0.0

    def __init__(self, config: EtcdConfig, timeout_s: float) -> None:
        self.where = f"etcd at {', '.join(config.endpoints)}"
        self._config = config
        self._endpoints = list(config.endpoints)
        # Shared among them, so that a question reaches the last one in time.
        self._share_s = timeout_s / len(self._endpoints)
        self._session: aiohttp.ClientSession | None = None
        self._token = ""

    async def get(self, key: str) -> Held | None:
        """From a quorum, not from what one member remembers."""
        answer = await self._ask("kv/range", {"key": self._name(key)}, may_repeat=True)
        found = answer.get("kvs") or []
        return self._held(found[0]) if found else None

    async def put(self, key: str, content: bytes, expected: Held | None) -> Held | None:
        """The revision is compared, and the content: a revision comes back where old copies are restored."""
        name = self._name(key)
        compare: list[dict[str, Any]] = [
            {
                "key": name,
                "target": "MOD",
                "result": "EQUAL",
                "mod_revision": expected.tag if expected else "0",
            }
        ]
        if expected is not None:
            compare.append(
                {"key": name, "target": "VALUE", "result": "EQUAL", "value": _text(expected.content)}
            )
        wish = {"request_put": {"key": name, "value": _text(content)}}
        answer = await self._ask("kv/txn", {"compare": compare, "success": [wish]}, may_repeat=False)
        if answer.get("succeeded") is not True:
            return None
        return self._whole(lambda: Held(content, str(int(answer["header"]["revision"]))))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- asking ---------------------------------------------------------------------------------------------

    async def _ask(self, what: str, body: dict[str, Any], may_repeat: bool) -> dict[str, Any]:
        """One question, to the first member that takes it.

        A member that cannot be connected to was asked nothing, so the next one is; an answer that fails to
        come is looked for elsewhere only where the question changes nothing.
        """
        why = ""
        for endpoint in tuple(self._endpoints):
            try:
                return await self._authorized(endpoint, what, body, self._share_s if may_repeat else None)
            except aiohttp.ClientConnectorCertificateError as fault:
                why = f"{endpoint}: its certificate: {fault.certificate_error}"
            except aiohttp.ClientConnectorError as fault:
                why = f"{endpoint}: {fault.os_error if fault.os_error.strerror else fault}"
            except (aiohttp.ClientError, TimeoutError, OSError, _Failed) as fault:
                why = f"{endpoint}: {fault or 'no answer in time'}"
                if not may_repeat:
                    self._put_last(endpoint)
                    break
            except asyncio.CancelledError:
                self._put_last(endpoint)  # whoever waited has given up: the next question goes elsewhere
                raise
            self._put_last(endpoint)
        raise RegisterUnreachable(self.where, why)

    async def _authorized(
        self, endpoint: str, what: str, body: dict[str, Any], within_s: float | None
    ) -> dict[str, Any]:
        """With a token, if the ensemble asks for one. Who was refused for an old one has changed nothing."""
        if self._config.user and not self._token:
            await self._authenticate(endpoint)
        try:
            return await self._post(endpoint, what, body, within_s)
        except _Unauthenticated:
            if not self._config.user:
                raise
            await self._authenticate(endpoint)
            return await self._post(endpoint, what, body, within_s)

    async def _authenticate(self, endpoint: str) -> None:
        self._token = ""
        wish = {"name": self._config.user, "password": self._content(self._config.password_file)}
        answer = await self._post(endpoint, "auth/authenticate", wish, self._share_s)
        self._token = str(answer.get("token", ""))

    async def _post(
        self, endpoint: str, what: str, body: dict[str, Any], within_s: float | None
    ) -> dict[str, Any]:
        async with self._open().post(
            f"{endpoint}/v3/{what}",
            data=json.dumps(body),
            headers={"Authorization": self._token} if self._token else None,
            timeout=aiohttp.ClientTimeout(total=within_s, sock_connect=self._share_s),
            allow_redirects=False,
        ) as response:
            raw = b""
            async for part in response.content.iter_any():
                raw += part
                if len(raw) > ANSWER_BYTES_MAX:
                    break  # no answer of etcd's to what we ask
            status = response.status
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            # What etcd itself says here: that it takes no certificate with a common name beside a user.
            why = f"HTTP {status}, and no answer of its gateway: {raw[:200].decode(errors='replace').strip()}"
            raise StoreRefused(self.where, why, "name client URLs of etcd 3.4 or later")
        if status != 200:
            self._refuse(endpoint, answer)
        return answer

    def _refuse(self, endpoint: str, answer: dict[str, Any]) -> None:
        """Of an answer that is no success: refused, or perhaps done."""
        code, why = answer.get("code"), str(answer.get("message") or answer.get("error"))[:200]
        if code == UNAUTHENTICATED:
            raise _Unauthenticated(self.where, why, REFUSALS[UNAUTHENTICATED])
        if code in REFUSALS:
            raise StoreRefused(self.where, why, REFUSALS[code])
        raise _Failed(why)

    def _put_last(self, endpoint: str) -> None:
        """The next question goes to another member first."""
        if endpoint in self._endpoints:
            self._endpoints.remove(endpoint)
            self._endpoints.append(endpoint)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            connector = aiohttp.TCPConnector(ssl=self._context(), limit=16, keepalive_timeout=300)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session

    def _context(self) -> ssl.SSLContext:
        config = self._config
        for file in (config.ca, config.cert, config.key):
            if file:
                self._content(file)
        try:
            context = ssl.create_default_context(cafile=config.ca or None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if config.cert:
                context.load_cert_chain(config.cert, config.key)
        except (OSError, ValueError) as fault:
            files = ", ".join(file for file in (config.ca, config.cert, config.key) if file)
            raise StoreRefused(
                self.where, f"{files}: {fault}", "they are to be PEM, the key unlocked"
            ) from fault
        return context

    def _content(self, path: str) -> str:
        """Of a file that hafarm.yaml names."""
        try:
            with open(path, encoding="utf-8") as file:
                return file.read().rstrip("\n")
        except (OSError, UnicodeDecodeError) as fault:
            why = f"{path}: {getattr(fault, 'strerror', None) or fault}"
            raise StoreRefused(self.where, why, "give this node the file that hafarm.yaml names") from fault

    # --- what travels ---------------------------------------------------------------------------------------

    def _name(self, key: str) -> str:
        return _text(f"{self._config.prefix}{key}".encode())

    def _held(self, found: Any) -> Held:
        return self._whole(
            lambda: Held(base64.b64decode(found["value"], validate=True), str(int(found["mod_revision"])))
        )

    def _whole(self, made: Any) -> Held:
        try:
            held: Held = made()
        except (KeyError, TypeError, ValueError) as fault:
            why = f"an answer that is not etcd's: {type(fault).__name__}: {fault}"
            raise StoreRefused(self.where, why, "name client URLs of etcd 3.4 or later") from fault
        return held


class _Unauthenticated(StoreRefused):
    """The token is missing, wrong or too old."""


class _Failed(Exception):
    """An answer that says that it failed, and not that nothing was done."""


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
