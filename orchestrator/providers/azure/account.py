"""Requests to Azure: short time-outs, and each that changes something asks for leave and is sent once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import azure.identity
from azure.core import AzureClouds
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.core.pipeline import policies
from azure.core.rest import HttpRequest
from azure.core.settings import settings
from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy
from azure.mgmt.core.tools import get_arm_endpoints
from azure.mgmt.network import NetworkManagementClient

from orchestrator.providers.azure.names import NAMESPACE
from orchestrator.providers.faults import (
    PlaceWrong,
    ProviderFault,
    ProviderRefused,
    ProviderUnreachable,
)
from orchestrator.providers.sending import ask_for_leave

NAME: Final = "Azure"
CONNECT_S: Final = 2
READ_S: Final = 5
"""The library's own is five minutes each: longer than a take-over may take."""
REST_MAX_S: Final = 60.0
"""The longest that we stay silent because Azure said so: it speaks of seconds."""
LINE_MAX: Final = 500
"""Of what the library says: without a token it tells of every way to get one."""
PERMISSIONS: Final = "providers/Microsoft.Authorization/permissions?api-version=2022-04-01"
READS: Final = frozenset({"GET", "HEAD"})
CLOUDS: Final[Mapping[str, tuple[AzureClouds, str]]] = {
    # As the metadata service calls them, with the place where people and programs log in.
    "AzureUSGovernmentCloud": (
        AzureClouds.AZURE_US_GOVERNMENT,
        azure.identity.AzureAuthorityHosts.AZURE_GOVERNMENT,
    ),
    "AzureChinaCloud": (AzureClouds.AZURE_CHINA_CLOUD, azure.identity.AzureAuthorityHosts.AZURE_CHINA),
}
OUTRUN: Final = frozenset(
    {
        # Somebody else changed it between our look and our request: look again.
        "PreconditionFailed",
        "RouteConflict",
        "PrivateIPAddressIsAllocated",
        "PrivateIPAddressInUse",
        "PublicIPAddressInUse",
    }
)
BUSY: Final = frozenset(
    {
        # Something else is under way there; this request was not begun.
        "AnotherOperationInProgress",
        "ReferencedResourceNotProvisioned",
        "RetryableError",
        "CanceledAndSupersededDueToAnotherOperation",
        "Conflict",
    }
)
PUT_OFF: Final = frozenset({408, 409, 412, 429})
"""Statuses, beside those of 500 and above."""


class Account:
    """The clients of each subscription, with this node's own identity."""

    def __init__(self, endpoint: str = "", environment: str = "") -> None:
        """`environment`: the cloud, as its metadata service calls it."""
        current: Any = settings.current
        cloud, self._authority = CLOUDS.get(environment, (current.azure_cloud, ""))
        places = get_arm_endpoints(cloud)
        self.endpoint = endpoint or str(places["resource_manager"])
        self._scopes: list[str] = places["credential_scopes"]
        self._making = threading.Lock()
        self._credential: Any = None
        self._clients: dict[str, Any] = {}
        self._rest_until = dict.fromkeys((False, True), 0.0)

    def network(self, subscription: str) -> Any:
        """Made once."""
        with self._making:
            if subscription not in self._clients:
                self._clients[subscription] = self._make(subscription)
            return self._clients[subscription]

    def forget(self) -> None:
        """The token is not good any more: the next request reads another."""
        with self._making:
            self._clients.clear()
            self._credential = None

    def _make(self, subscription: str) -> Any:
        self._credential = self._credential or _credential(self._authority)
        return NetworkManagementClient(
            self._credential,
            subscription,
            base_url=self.endpoint,
            # The library's own list repeats requests, follows redirections and registers services by itself.
            policies=[
                policies.RequestIdPolicy(),
                policies.HeadersPolicy(),
                policies.UserAgentPolicy("hafarm"),
                policies.ProxyPolicy(),
                policies.ContentDecodePolicy(),
                ARMChallengeAuthenticationPolicy(self._credential, *self._scopes),
                LastBeforeTheSocket(self),
            ],
            connection_timeout=CONNECT_S,
            read_timeout=READ_S,
        )

    # --- what Azure asked us to leave -------------------------------------------------------------------

    def resting_s(self, changes: bool) -> float:
        """How much longer no request of this kind is wanted."""
        return self._rest_until[changes] - time.monotonic()

    def rest(self, changes: bool, seconds: float) -> None:
        """Reads and changes are counted apart there."""
        self._rest_until[changes] = time.monotonic() + min(seconds, REST_MAX_S)

    # --- rights -----------------------------------------------------------------------------------------

    def permissions(self, subscription: str, scope: str) -> list[Mapping[str, Any]]:
        """What this node's identity may do there, as Azure lists it."""
        url: str | None = f"{self.endpoint.rstrip('/')}{scope}/{PERMISSIONS}"
        found: list[Mapping[str, Any]] = []
        while url:
            page = call(lambda url=url: self._page(subscription, url), f"permissions on {scope}", self)  # type: ignore[misc]
            found += page["value"]
            url = page.get("nextLink")
        return found

    def _page(self, subscription: str, url: str) -> Any:
        answer = self.network(subscription).send_request(HttpRequest("GET", url))
        if answer.status_code != 200:
            raise HttpResponseError(response=answer)
        return answer.json()


def _credential(authority: str) -> Any:
    """The environment, a workload's or the machine's identity, or `az login` of a person: the first there is.

    Not the library's own chain, which also asks the machine's metadata service through a proxy.
    """
    words: dict[str, Any] = {"authority": authority} if authority else {}
    words["retry_total"] = 1
    chain: list[Any] = [azure.identity.EnvironmentCredential(**words)]
    if os.environ.get("AZURE_FEDERATED_TOKEN_FILE"):
        chain.append(azure.identity.WorkloadIdentityCredential(**words))
    client = os.environ.get("AZURE_CLIENT_ID")
    machine = azure.identity.ManagedIdentityCredential(
        client_id=client, use_env_settings=False, retry_total=1
    )
    return azure.identity.ChainedTokenCredential(*chain, machine, azure.identity.AzureCliCredential())


class LastBeforeTheSocket(policies.HTTPPolicy[Any, Any]):
    """No change leaves without leave, and nothing while Azure wants rest. Behind all others, tokens too."""

    def __init__(self, account: Account) -> None:
        super().__init__()
        self._account = account

    def send(self, request: Any) -> Any:
        method, url = request.http_request.method, request.http_request.url
        name = f"{method} {_told(url)}"
        changes = method not in READS
        if (left_s := self._account.resting_s(changes)) > 0:
            raise ProviderUnreachable(NAME, name, f"it wants no request for {left_s:.0f} s more")
        if changes:
            ask_for_leave(name)
        return self.next.send(request)


def _told(url: str) -> str:
    """The readable part of an address."""
    return url.partition("?")[0].rpartition(f"/{NAMESPACE}/")[2]


def call(request: Callable[[], Any], what: str, account: Account) -> Any:
    """One request; its answer, or a fault in our words."""
    try:
        return request()
    except ProviderFault:
        raise
    except ClientAuthenticationError as fault:
        account.forget()
        why = "the token was not good any more"
        if fault.response is None:
            # No identity, or a metadata service that gives none now: the library says the same.
            why = "there is no token: give this machine an identity, or the agent AZURE_* variables"
        raise ProviderUnreachable(NAME, what, f"{why} ({_line(fault)})") from fault
    except HttpResponseError as fault:
        raise _understood(fault, what, account) from fault
    except (AzureError, OSError, ValueError) as fault:
        raise ProviderUnreachable(NAME, what, _line(fault)) from fault


def code_of(fault: BaseException | None) -> str:
    """Azure's own code behind a fault of ours, or nothing."""
    cause = fault.__cause__ if isinstance(fault, ProviderFault) else fault
    if isinstance(cause, HttpResponseError) and cause.error is not None:
        return str(cause.error.code or "")
    return ""


def _understood(fault: HttpResponseError, what: str, account: Account) -> ProviderFault:
    code, status = code_of(fault), int(fault.status_code or 0)
    why = _line(fault)
    if status == 429 and code not in BUSY:
        _heed(fault, account)
    if code in OUTRUN or code in BUSY or status in PUT_OFF or status >= 500 or not status:
        return ProviderUnreachable(NAME, what, why)
    if status == 403:
        return ProviderRefused(NAME, what, f"this node's identity lacks the right to it ({why})")
    if status == 404:
        return PlaceWrong(what, f"it is not there ({why})", "correct the name, or `resource_group`")
    return ProviderRefused(NAME, what, why)


def _heed(fault: HttpResponseError, account: Account) -> None:
    response: Any = fault.response
    told = response.headers.get("Retry-After", "") if response is not None else ""
    if told.isdigit():
        account.rest(response.request.method not in READS, float(told))


def _line(fault: BaseException) -> str:
    """What it says, on one line: the library repeats code and message over several."""
    error = fault.error if isinstance(fault, HttpResponseError) else None
    if error is not None and error.code:
        return f"{error.code}: {' '.join(str(error.message or '').split())}"
    return " ".join(str(fault).split())[:LINE_MAX] or type(fault).__name__
