"""The endpoint that gives a service account a token for what it signed."""

from __future__ import annotations

import jwt
from aiohttp import web

from tests.clouds.tokens import Tokens


async def answer_token(tokens: Tokens, request: web.Request, audience: str) -> web.Response:
    """The signature is not looked at: whoever tests signs with a key that no cloud knows."""
    form = await request.post()
    if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
        return _no("unsupported_grant_type", "Invalid grant_type")
    try:
        claims = jwt.decode(str(form["assertion"]), options={"verify_signature": False})
    except (KeyError, jwt.PyJWTError) as fault:
        return _no("invalid_grant", f"Invalid JWT: {fault}")
    text, token = tokens.give(claims["iss"], audience)
    tokens.asked += 1
    return web.json_response({"access_token": text, "expires_in": token.left_s, "token_type": "Bearer"})


def _no(error: str, description: str) -> web.Response:
    return web.json_response({"error": error, "error_description": description}, status=400)
