"""What stands in for two clouds' stores: objects, conditions, credentials, as their documents say."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote

from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

BUCKET = "hafarm-registers"
TOKEN = "token-of-the-node"
EVERY_S = 1.0
"""Google's bound for writes under one key."""


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    """Its URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


class Objects:
    """One bucket's content: key to bytes and a number that never comes again."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[bytes, int]] = {}
        self.written: dict[str, float] = {}
        self.leased: set[str] = set()
        self.paced = False
        """One write a second under each key, and no more."""
        self._number = 1_700_000_000_000_000

    def write(self, key: str, content: bytes) -> int:
        self._number += 1
        self.held[key] = content, self._number
        self.written[key] = time.monotonic()
        return self._number

    def too_soon(self, key: str) -> bool:
        return self.paced and time.monotonic() - self.written.get(key, -EVERY_S) < EVERY_S


def google(objects: Objects) -> web.Application:
    """The JSON API's upload and download, and the place where service accounts get their tokens."""

    async def token(request: web.Request) -> web.Response:
        assert (await request.post())["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        return web.json_response({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})

    def check(request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise web.HTTPUnauthorized(text=_error("Invalid Credentials"), content_type="application/json")
        if request.match_info["bucket"] != BUCKET:
            text = "The specified bucket does not exist."
            raise web.HTTPNotFound(text=_error(text), content_type="application/json")

    async def upload(request: web.Request) -> web.Response:
        check(request)
        name, wanted = request.query["name"], request.query.get("ifGenerationMatch")
        assert request.query["uploadType"] == "media"
        _, stands = objects.held.get(name, (b"", 0))
        if wanted is not None and int(wanted) != stands:
            text = "At least one of the pre-conditions you specified did not hold."
            return web.Response(status=412, text=_error(text), content_type="application/json")
        if objects.too_soon(name):
            text = f"The object {BUCKET}/{name} exceeded the rate limit for object mutation operations."
            return web.Response(status=429, text=_error(text), content_type="application/json")
        generation = objects.write(name, await request.read())
        return web.json_response({"kind": "storage#object", "name": name, "generation": str(generation)})

    async def download(request: web.Request) -> web.Response:
        check(request)
        name = unquote(request.match_info["name"])
        if name not in objects.held:
            raise web.HTTPNotFound(text=f"No such object: {BUCKET}/{name}")
        assert request.query["alt"] == "media"
        content, generation = objects.held[name]
        return web.Response(body=content, headers={"X-Goog-Generation": str(generation)})

    app = web.Application()
    app.router.add_post("/token", token)
    app.router.add_post("/upload/storage/v1/b/{bucket}/o", upload)
    app.router.add_get("/storage/v1/b/{bucket}/o/{name:.+}", download)
    return app


def _error(message: str) -> str:
    return json.dumps({"error": {"code": 0, "message": message}})


def google_account(path: Path, url: str) -> dict[str, str]:
    """A service account's file, whose tokens are made at `url`; what a process needs in its environment."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "test",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": "node@test.iam.gserviceaccount.com",
        "token_uri": f"{url}/token",
    }
    path.write_text(json.dumps(account))
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}


def azure(objects: Objects, audience: str = "https://storage.azure.com") -> web.Application:
    """Block blobs of one container, and the machine's identity service."""
    token = _unsigned(
        {"aud": audience, "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000000/"}
    )

    async def identity(request: web.Request) -> web.Response:
        if request.headers.get("Metadata") != "true":
            raise web.HTTPBadRequest
        ends = str(int(time.time()) + 3600)
        answer = {"access_token": token, "expires_on": ends, "expires_in": "3600", "resource": audience}
        return web.json_response({**answer, "token_type": "Bearer"})

    def check(request: web.Request) -> web.Response | None:
        assert request.headers["x-ms-version"]
        if request.headers.get("Authorization") != f"Bearer {token}":
            return _refusal(401, "InvalidAuthenticationInfo")
        if request.match_info["container"] != BUCKET:
            return _refusal(404, "ContainerNotFound")
        return None

    async def put(request: web.Request) -> web.Response:
        refused = check(request)
        if refused is not None:
            return refused
        assert request.headers["x-ms-blob-type"] == "BlockBlob"
        key, wanted = request.match_info["key"], request.headers.get("If-Match")
        stands = _tag(objects.held[key][1]) if key in objects.held else None
        if request.headers.get("If-None-Match") == "*" and stands is not None:
            return _refusal(409, "BlobAlreadyExists")
        if wanted is not None and wanted != stands:
            return _refusal(412, "ConditionNotMet")
        if key in objects.leased:
            return _refusal(412, "LeaseIdMissing")
        return web.Response(status=201, headers={"ETag": _tag(objects.write(key, await request.read()))})

    async def get(request: web.Request) -> web.Response:
        refused = check(request)
        if refused is not None:
            return refused
        key = request.match_info["key"]
        if key not in objects.held:
            return _refusal(404, "BlobNotFound")
        content, number = objects.held[key]
        return web.Response(body=content, headers={"ETag": _tag(number)})

    app = web.Application()
    app.router.add_get("/metadata/identity/oauth2/token", identity)
    app.router.add_put("/{container}/{key:.+}", put)
    app.router.add_get("/{container}/{key:.+}", get)
    return app


def _tag(number: int) -> str:
    return f'"0x{number:X}"'


def _refusal(status: int, code: str) -> web.Response:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} it is.</Message></Error>"
    headers = {"x-ms-error-code": code}
    return web.Response(status=status, text=text, headers=headers, content_type="application/xml")


def _unsigned(claims: Mapping[str, str]) -> str:
    """A token as those who look into it expect it."""
    now = int(time.time())
    parts = ({"typ": "JWT", "alg": "RS256"}, {**claims, "iat": now, "nbf": now - 60, "exp": now + 3600})
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*coded, base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")])
