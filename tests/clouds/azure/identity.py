"""The service that gives tokens: to whoever knows a client's secret, and to a machine by its identity."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web
from azure.core.credentials import AccessToken

from tests.clouds.tokens import Tokens

AUDIENCE: Final = "https://management.azure.com"


@dataclass
class Identities(Tokens):
    """Who there is, and which tokens were given."""

    secrets: dict[str, str] = field(default_factory=dict)
    """Client to its secret."""

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
        left = token.left_s
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
            "expires_in": str(token.left_s),
            "expires_on": str(int(token.until)),
            "ext_expires_in": str(token.left_s),
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
