"""Google Cloud Storage as a store, in the worker: ifGenerationMatch, with the credentials of google-auth.

The two requests are plain HTTPS: Google's storage library would bring retries of its own, and nothing that is
needed here. What is hard, credentials of every kind, is google-auth's.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import google.auth
import google.auth.exceptions
import google.auth.transport.requests
import requests

from orchestrator.model.config import BucketConfig
from orchestrator.model.errors import RegisterUnreachable
from orchestrator.providers.registers.rest import failed, send
from orchestrator.providers.registers.store import Held, StoreRefused

SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
HOST: Final = "https://storage.googleapis.com"
FIXES: Final = {
    400: "correct `bucket`",
    401: "give this node other credentials",
    403: "let this node's account storage.objects.get, .create and .delete (which a replacement needs) in "
    "the bucket",
    404: "make the bucket, or correct `bucket`",
}


def open_bucket(place: BucketConfig, timeout_s: float) -> Gcs:
    """Credentials are found as everywhere there: the environment's file, or the machine's account."""
    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except (google.auth.exceptions.GoogleAuthError, OSError, ValueError) as fault:
        raise StoreRefused(place.where, str(fault), "give this node an account, or credentials") from fault
    return Gcs(place, credentials, timeout_s)


class Gcs:
    """One bucket."""

    def __init__(self, place: BucketConfig, credentials: Any, timeout_s: float) -> None:
        self._place = place
        self._timeout_s = timeout_s
        self._host = place.endpoint or HOST
        # It renews credentials and asks again only where a request was refused for them (401).
        made: Any = google.auth.transport.requests.AuthorizedSession
        self._session: requests.Session = made(credentials)

    def get(self, key: str) -> Held | None:
        """A read of an object that is not public is never a cached one."""
        name = quote(self._place.prefix + key, safe="")
        answer = self._send("GET", f"/storage/v1/b/{quote(self._place.bucket)}/o/{name}", {"alt": "media"})
        if answer.status_code == 404 and "No such object" in answer.text:
            return None
        if answer.status_code != 200:
            raise self._failed(answer)
        return self._held(answer.content, answer.headers.get("X-Goog-Generation"))

    def put(self, key: str, content: bytes, expected: Held | None) -> Held | None:
        words = {
            "uploadType": "media",
            "name": self._place.prefix + key,
            "ifGenerationMatch": expected.tag if expected else "0",
        }
        answer = self._send("POST", f"/upload/storage/v1/b/{quote(self._place.bucket)}/o", words, content)
        if answer.status_code == 412:
            return None
        if answer.status_code != 200:
            raise self._failed(answer)
        try:
            generation = answer.json().get("generation")
        except (ValueError, AttributeError) as fault:
            raise RegisterUnreachable(self._place.where, "an answer that is not Google's") from fault
        return self._held(content, generation)

    def _send(self, method: str, path: str, words: dict[str, str], content: bytes | None = None) -> Any:
        try:
            return send(
                self._session,
                self._place.where,
                method,
                self._host + path,
                self._timeout_s,
                params=words,
                data=content,
                headers={"Content-Type": "application/json"} if content is not None else {},
                verify=self._place.ca,
            )
        except google.auth.exceptions.TransportError as fault:
            raise RegisterUnreachable(self._place.where, f"no credentials: {fault}") from fault
        except google.auth.exceptions.GoogleAuthError as fault:
            raise StoreRefused(self._place.where, str(fault), FIXES[401]) from fault

    def _held(self, content: bytes, generation: Any) -> Held:
        if generation is None or not str(generation).isdecimal():
            raise RegisterUnreachable(self._place.where, "an answer without a generation")
        return Held(content, str(generation))

    def _failed(self, answer: requests.Response) -> StoreRefused | RegisterUnreachable:
        try:
            why = str(answer.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            why = answer.text[:200]
        return failed(self._place.where, answer, why, FIXES.get(answer.status_code, ""))
