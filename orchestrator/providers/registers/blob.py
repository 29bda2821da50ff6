"""Azure Blob Storage as a store, in the worker: If-Match on the ETag, with the credentials of azure-identity.

The two requests are plain HTTPS, as with Google's. Leases are not used: they end by Azure's clock, and a tag
does not.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

import azure.core.exceptions
import azure.identity
import requests

from orchestrator.model.config import BucketConfig
from orchestrator.model.errors import RegisterUnreachable
from orchestrator.providers.registers.rest import failed, send
from orchestrator.providers.registers.store import Held, StoreRefused

SCOPE: Final = "https://storage.azure.com/.default"
VERSION: Final = "2021-12-02"
MOVED: Final = frozenset({"ConditionNotMet", "BlobAlreadyExists"})
FIXES: Final = {
    "ContainerNotFound": "make the container, or correct `container`",
    "ContainerBeingDeleted": "correct `container`",
    "InvalidResourceName": "correct `container`",
    "OutOfRangeInput": "correct `container`",
    "AuthorizationPermissionMismatch": "give this node's identity the role Storage Blob Data Contributor on "
    "the container",
    "AuthorizationFailure": "let this node's network in at the account's firewall",
    "InvalidAuthenticationInfo": "give this node another identity, and the right `account`",
    "LeaseIdMissing": "somebody has a lease on the blob: break it; hafarm uses none",
}


def open_bucket(place: BucketConfig, timeout_s: float) -> Blob:
    """Credentials: the environment, a workload's or the machine's identity, or `az login` of a person."""
    credential = azure.identity.DefaultAzureCredential(
        # Each of these would be asked first, and takes seconds to say that nobody uses it here.
        exclude_shared_token_cache_credential=True,
        exclude_visual_studio_code_credential=True,
        exclude_powershell_credential=True,
        exclude_developer_cli_credential=True,
        retry_total=1,
    )
    return Blob(place, credential, timeout_s)


class Blob:
    """One container."""

    def __init__(self, place: BucketConfig, credential: Any, timeout_s: float) -> None:
        self._place = place
        self._credential = credential
        self._timeout_s = timeout_s
        host = place.endpoint or f"https://{place.account}.blob.core.windows.net"
        self._base = f"{host}/{quote(place.bucket)}/{quote(place.prefix)}"
        self._session = requests.Session()
        self._token()  # now, and not when a role is taken; the library renews it in time

    def get(self, key: str) -> Held | None:
        answer = self._send("GET", key, {})
        if answer.status_code == 404 and _code(answer) == "BlobNotFound":
            return None
        if answer.status_code != 200:
            raise self._failed(answer)
        return self._held(answer.content, answer)

    def put(self, key: str, content: bytes, expected: Held | None) -> Held | None:
        condition = {"If-Match": expected.tag} if expected else {"If-None-Match": "*"}
        kind = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/json"}
        answer = self._send("PUT", key, {**condition, **kind}, content)
        if _code(answer) in MOVED:
            return None
        if answer.status_code != 201:
            raise self._failed(answer)
        return self._held(content, answer)

    def _send(self, method: str, key: str, headers: dict[str, str], content: bytes | None = None) -> Any:
        own = {"Authorization": f"Bearer {self._token()}", "x-ms-version": VERSION}
        return send(
            self._session,
            self._place.where,
            method,
            self._base + quote(key),
            self._timeout_s,
            data=content,
            headers={**own, **headers},
            verify=self._place.ca,
        )

    def _token(self) -> str:
        try:
            return str(self._credential.get_token(SCOPE).token)
        except azure.core.exceptions.ClientAuthenticationError as fault:
            why = str(fault.message).partition("\n")[0]
            raise StoreRefused(self._place.where, why, "give this node an identity") from fault
        except azure.core.exceptions.AzureError as fault:
            raise RegisterUnreachable(self._place.where, f"no credentials: {fault.message}") from fault

    def _held(self, content: bytes, answer: requests.Response) -> Held:
        tag = answer.headers.get("ETag", "")
        if not tag:
            raise RegisterUnreachable(self._place.where, "an answer without an ETag")
        return Held(content, tag)

    def _failed(self, answer: requests.Response) -> StoreRefused | RegisterUnreachable:
        code = _code(answer)
        found = re.search(r"<Message>([^<\n]*)", answer.text)
        why = f"{code} {found[1] if found else answer.text[:200]}".strip()
        if code == "LeaseIdMissing":
            return StoreRefused(self._place.where, why, FIXES[code])
        return failed(self._place.where, answer, why, FIXES.get(code, ""))


def _code(answer: requests.Response) -> str:
    return str(answer.headers.get("x-ms-error-code", ""))
