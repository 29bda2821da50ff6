"""The service that gives tokens: to whoever knows a client's secret, and to a machine by its identity."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web
from azure.core.credentials import AccessToken

AUDIENCE: Final = "https://management.azure.com"
LIFETIME_S: Final = 86_399
"""As the cloud's own tokens for machines."""


@dataclass(frozen=True, slots=True)
class Token:
    principal: str
    audience: str
    until: float
    """In the clock of the wall, as the caller is told it."""

    def has_expired(self) -> bool:
        return time.time() >= self.until


@dataclass
class Identities:
    """Who there is, and which tokens were given."""

    secrets: dict[str, str] = field(default_factory=dict)
    """Client to its secret."""
    tokens: dict[str, Token] = field(default_factory=dict)
    asked: int = 0
    """How many tokens were given over HTTP."""

    def give(
        self, principal: str, audience: str = AUDIENCE, lifetime_s: float = LIFETIME_S
    ) -> tuple[str, Token]:
        text = f"eyJ.{uuid.uuid4().hex}"
        self.tokens[text] = Token(principal, audience.rstrip("/"), time.time() + lifetime_s)
        return text, self.tokens[text]

    def expire_all(self) -> None:
        """Every token that was given is too old now; new ones are not."""
        for text, token in self.tokens.items():
            self.tokens[text] = Token(token.principal, token.audience, time.time() - 1)

    async def answer(self, request: web.Request) -> web.Response:
        """The login service's own addresses."""
        words = request.path.strip("/").split("/")
        base = f"{request.scheme}://{request.host}/{words[0]}"
        if words[1:] == ["v2.0", ".well-known", "openid-configuration"]:
            return web.json_response(
                {
                    "issuer": f"{base}/v2.0",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                }
            )
        if words[1:] == ["oauth2", "v2.0", "token"] and request.method == "POST":
            return self._client_token(dict(await request.post()))
        return web.json_response({"error": "not_found"}, status=404)

    def _client_token(self, form: dict[str, Any]) -> web.Response:
        if form.get("grant_type") != "client_credentials":
            return _refused(400, "unsupported_grant_type", "AADSTS70003: The grant type is not supported.")
        client = form.get("client_id", "")
        if client not in self.secrets:
            return _refused(
                400, "unauthorized_client", f"AADSTS700016: Application '{client}' was not found."
            )
        if self.secrets[client] != form.get("client_secret"):
            return _refused(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
        scope = form.get("scope", "")
        if not scope.endswith("/.default"):
            return _refused(400, "invalid_scope", f"AADSTS1002012: The scope {scope} is not valid.")
        text, token = self.give(client, scope.removesuffix("/.default"))
        self.asked += 1
        left = int(token.until - time.time())
        return web.json_response(
            {"token_type": "Bearer", "expires_in": left, "ext_expires_in": left, "access_token": text}
        )

    def machine_token(self, principal: str, resource: str) -> web.Response:
        """What the metadata service answers about a token; numbers are text there."""
        text, token = self.give(principal, resource)
        self.asked += 1
        told = {
            "access_token": text,
            "client_id": principal,
            "expires_in": str(int(token.until - time.time())),
            "expires_on": str(int(token.until)),
            "ext_expires_in": str(LIFETIME_S),
            "not_before": str(int(time.time())),
            "resource": resource,
            "token_type": "Bearer",
        }
        return web.Response(text=json.dumps(told), content_type="application/json")


def _refused(status: int, error: str, description: str) -> web.Response:
    return web.json_response({"error": error, "error_description": description}, status=status)


class Credential:
    """A credential of the SDK that was handed its token, for tests that are not about tokens."""

    def __init__(self, identities: Identities, principal: str) -> None:
        self._identities = identities
        self._principal = principal

    def get_token(self, *scopes: str, **kwargs: object) -> AccessToken:
        text, token = self._identities.give(self._principal, scopes[0].removesuffix("/.default"))
        return AccessToken(text, int(token.until))
