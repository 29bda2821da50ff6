"""Service accounts: what they signed is changed for a token, or is a token itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jwt
from aiohttp import web

from tests.clouds.tokens import Token, Tokens


def signed(text: str, keys: Mapping[str, str]) -> dict[str, Any] | None:
    """The claims of what an account signed, if its key is known and the time is not over."""
    try:
        issuer = jwt.decode(text, options={"verify_signature": False}).get("iss", "")
        options = {"verify_aud": False, "require": ["iss", "exp"]}
        claims: dict[str, Any] = jwt.decode(text, keys.get(issuer, ""), algorithms=["RS256"], options=options)
    except (jwt.PyJWTError, ValueError):
        return None
    return claims


def own_token(authorization: str, keys: Mapping[str, str]) -> Token | None:
    """What the SDK does with an account's key if nobody tells it otherwise: it signs its own token."""
    kind, _, text = authorization.partition(" ")
    claims = signed(text, keys) if kind.lower() == "bearer" else None
    return None if claims is None else Token(claims["iss"], str(claims.get("aud", "")), float(claims["exp"]))


async def answer_token(
    tokens: Tokens, request: web.Request, audience: str, keys: Mapping[str, str]
) -> web.Response:
    """The endpoint that changes what was signed for a token."""
    form = await request.post()
    if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
        return _no("unsupported_grant_type", "Invalid grant_type")
    claims = signed(str(form.get("assertion", "")), keys)
    if claims is None:
        return _no("invalid_grant", "Invalid JWT Signature.")
    text, token = tokens.give(claims["iss"], audience)
    tokens.asked += 1
    return web.json_response({"access_token": text, "expires_in": token.left_s, "token_type": "Bearer"})


def _no(error: str, description: str) -> web.Response:
    return web.json_response({"error": error, "error_description": description}, status=400)
