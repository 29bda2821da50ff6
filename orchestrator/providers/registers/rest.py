"""A store that is two conditional HTTP requests: what Google's and Azure's have in common, in the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import requests

from orchestrator.model.errors import RegisterUnreachable
from orchestrator.providers.registers.store import StoreRefused

REFUSED: Final = frozenset({400, 401, 403, 404, 405, 411, 413, 501})
"""Understood, and nothing was done. What else is no success may have been carried out."""


def send(
    session: requests.Session,
    where: str,
    method: str,
    url: str,
    timeout_s: float,
    *,
    headers: Mapping[str, str],
    verify: str,
    params: Mapping[str, str] | None = None,
    data: bytes | None = None,
) -> requests.Response:
    """One request, sent once; RegisterUnreachable when there is no whole answer."""
    given: dict[str, Any] = {"params": params, "data": data, "headers": dict(headers)}
    try:
        return session.request(
            method, url, timeout=timeout_s, verify=verify or True, allow_redirects=False, **given
        )
    except requests.exceptions.SSLError as fault:
        raise RegisterUnreachable(where, f"no TLS with it: {fault}") from fault
    except (requests.exceptions.RequestException, OSError) as fault:
        raise RegisterUnreachable(where, str(fault)) from fault


def failed(where: str, answer: requests.Response, why: str, fix: str) -> StoreRefused | RegisterUnreachable:
    """Of an answer that is no success."""
    text = f"HTTP {answer.status_code}: {why}"
    return (
        StoreRefused(where, text, fix) if answer.status_code in REFUSED else RegisterUnreachable(where, text)
    )
