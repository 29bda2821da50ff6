"""Requests to Compute Engine: short time-outs; what changes something asks for leave and is sent once."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import google.api_core.exceptions
import google.auth
import google.auth.compute_engine
import google.auth.exceptions
import google.auth.transport.requests
import requests
import requests.adapters
from google.cloud import compute_v1
from google.protobuf.json_format import ParseError

from orchestrator.model.names import Epoch
from orchestrator.providers.faults import (
    PlaceWrong,
    ProviderFault,
    ProviderRefused,
    ProviderUnreachable,
)
from orchestrator.providers.mover import Leave
from orchestrator.providers.sending import ask_for_leave

NAME: Final = "GCP"
CONNECT_S: Final = 2
READ_S: Final = 5
"""The library's own is ten minutes: longer than a take-over may take."""
FIRST_LOOK_S: Final = 0.1
LOOK_MAX_S: Final = 1.0
"""Between two looks at an operation, doubled each time: they take from half a second to half a minute."""
ENDPOINT: Final = "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE"
"""Of Google's command line: where Compute Engine is asked, such as a private endpoint of a network."""
PUBLIC: Final = "https://compute.googleapis.com"
SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
POOL: Final = 16
READS: Final = frozenset({"getHealth", "listInstances", "testIamPermissions"})
"""The last word of requests that change nothing although they have a body."""
PUT_OFF: Final = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "resourceNotReady"})
"""Reasons of a refusal that is none for good: 403 and 400 are also used for them."""
OUTRUN: Final = frozenset({"alreadyExists", "conditionNotMet", "memberAlreadyExists"})
"""Somebody else changed it between our look and our request: look again."""
OVER_AGAIN: Final = frozenset(
    {
        # How an operation ends that may end otherwise the next time, or that somebody else outran.
        "IP_IN_USE_BY_ANOTHER_RESOURCE",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_NOT_READY",
        "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE",
        "CONDITION_NOT_MET",
        "RATE_LIMIT_EXCEEDED",
        "INTERNAL_ERROR",
        "SERVICE_UNAVAILABLE",
        "BACKEND_ERROR",
        "TIMEOUT",
    }
)
Client = TypeVar("Client")


class Asking(requests.adapters.HTTPAdapter):
    """The last step before the socket: no change leaves without leave, and nobody waits long."""

    def __init__(self) -> None:
        super().__init__(pool_connections=POOL, pool_maxsize=POOL, max_retries=0)

    def send(self, request: Any, stream: Any = False, timeout: Any = None, *rest: Any, **more: Any) -> Any:
        name = change_of(request.method, urlsplit(request.url).path)
        if name:
            ask_for_leave(name)
        return super().send(request, stream, (CONNECT_S, READ_S), *rest, **more)


def change_of(method: str, path: str) -> str:
    """What a request would change, in a few words; nothing of one that only asks."""
    *_, thing, last = path.split("/")
    if method == "GET" or last in READS:
        return ""
    if method == "DELETE":
        return f"delete {last} of {thing}"
    return f"{last} of {thing}"


class Account:
    """The clients of one project, and the credentials that this node has."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.endpoint = _endpoint()
        self._asking = Asking()
        """One for all clients, so that a connection is there when it is needed."""
        self._making = threading.Lock()
        self._credentials: Any = None
        self._made: dict[type[Any], Any] = {}
        self._under_way: dict[str, tuple[Epoch, Any]] = {}
        """Operations that outlived the order that began them, by what they do."""

    def client(self, kind: type[Client]) -> Client:
        """Made once."""
        return self._kept(kind, self._make)

    def session(self) -> requests.Session:
        """For what the library's clients cannot say."""
        return self._kept(google.auth.transport.requests.AuthorizedSession, self._session)

    def _kept(self, kind: type[Client], make: Callable[[type[Client]], Client]) -> Client:
        with self._making:
            if self._credentials is None:
                self._credentials = _credentials()
            if kind not in self._made:
                self._made[kind] = make(kind)
            found: Client = self._made[kind]
            return found

    def _make(self, kind: type[Client]) -> Client:
        words: dict[str, Any] = {
            "credentials": self._credentials,
            "client_options": {"api_endpoint": self.endpoint},
        }
        made = kind(**words)
        self._mount(made.transport._session)  # type: ignore[attr-defined]
        return made

    def _session(self, kind: type[Any]) -> Any:
        return self._mount(kind(self._credentials))

    def _mount(self, session: requests.Session) -> requests.Session:
        for scheme in ("https://", "http://"):
            session.mount(scheme, self._asking)
        return session

    def forget(self) -> None:
        """The credentials are not good any more: the next request reads them again."""
        with self._making:
            self._credentials = None
            self._made.clear()

    # --- asking -----------------------------------------------------------------------------------------

    def ask(self, method: str, kind: type[Client], what: str, **words: Any) -> Any:
        """One request of this method, without the library's repetitions; `what`: for people."""
        return self.call(
            lambda: getattr(self.client(kind), method)(request=words, timeout=READ_S, retry=None), what
        )

    def all_of(self, method: str, kind: type[Client], what: str, **words: Any) -> list[Any]:
        """Of a list that comes in pages."""
        return list(self.call(lambda: list(self.ask(method, kind, what, **words)), what))

    def patch(self, path: str, words: Mapping[str, str], body: Mapping[str, Any], what: str) -> Any:
        """A change that the library cannot write; its operation, as from the library."""
        url = f"{self.endpoint}/compute/v1/{path}"
        query = {**words, "requestId": str(uuid.uuid4())}

        def send() -> Any:
            answer = self.session().patch(url, params=query, json=body, timeout=READ_S)
            if not answer.ok:
                understood: Any = google.api_core.exceptions.from_http_response
                raise understood(answer)
            return compute_v1.Operation.from_json(answer.content, ignore_unknown_fields=True)

        return self.call(send, what)

    def call(self, request: Callable[[], Any], what: str) -> Any:
        """One request; its answer, or a fault in our words."""
        try:
            return request()
        except ProviderFault:
            raise
        except google.api_core.exceptions.GoogleAPICallError as fault:
            raise self._understood(fault, what) from fault
        except google.auth.exceptions.DefaultCredentialsError as fault:
            why = (
                "this node has no credentials: give its instance a service account with the scope "
                "cloud-platform, or the agent GOOGLE_APPLICATION_CREDENTIALS"
            )
            raise ProviderRefused(NAME, what, why) from fault
        except google.auth.exceptions.GoogleAuthError as fault:
            self.forget()
            raise ProviderUnreachable(NAME, what, f"no token: {fault}") from fault
        except (requests.RequestException, ParseError, OSError, ValueError) as fault:
            raise ProviderUnreachable(NAME, what, str(fault) or type(fault).__name__) from fault

    def _understood(self, fault: google.api_core.exceptions.GoogleAPICallError, what: str) -> ProviderFault:
        status, reasons = int(fault.code or 0), reasons_of(fault)
        why = f"{', '.join(sorted(reasons)) or status}: {fault.message}"
        if status == 401:
            self.forget()
            return ProviderUnreachable(NAME, what, f"the credentials were not accepted ({why})")
        if reasons & (PUT_OFF | OUTRUN) or status in (409, 412, 429) or status >= 500:
            return ProviderUnreachable(NAME, what, why)
        if status == 403:
            return ProviderRefused(NAME, what, f"this node's service account lacks the right to it ({why})")
        if status == 404:
            return PlaceWrong(
                what, f"not in project {self.project} ({why})", "correct the name, or `project`"
            )
        return ProviderRefused(NAME, what, why)

    # --- changing ---------------------------------------------------------------------------------------

    def carry_out(self, what: str, begin: Callable[[], Any], leave: Leave) -> None:
        """Begin an operation and wait until it is over; raises how it failed, or that there is no more time.

        One that outlived an earlier order of this reign is waited for, and not begun again.
        """
        if not self.is_under_way(what, leave.epoch):
            self._under_way[what] = leave.epoch, begin()
        _, begun = self._under_way[what]
        operation = self._over(begun, what, leave)
        del self._under_way[what]
        for error in operation.error.errors:
            why = f"{error.code}: {error.message}"
            if error.code in OVER_AGAIN or operation.http_error_status_code >= 500:
                raise ProviderUnreachable(NAME, what, why)
            raise ProviderRefused(NAME, what, why)

    def is_under_way(self, what: str, epoch: Epoch) -> bool:
        """As far as this process knows."""
        return what in self._under_way and self._under_way[what][0] == epoch

    def _over(self, begun: Any, what: str, leave: Leave) -> Any:
        pause_s, operation = FIRST_LOOK_S, begun
        while operation.status != compute_v1.Operation.Status.DONE:
            if leave.left_s() < pause_s:
                raise ProviderUnreachable(NAME, what, "its operation is not over yet")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_MAX_S)
            operation = self._operation(begun, what)
        return operation

    def _operation(self, begun: Any, what: str) -> Any:
        """As it is now; it is asked where it runs."""
        words = {"project": self.project, "operation": begun.name}
        if begun.zone:
            kind: Any = compute_v1.ZoneOperationsClient
            words["zone"] = last(begun.zone)
        elif begun.region:
            kind = compute_v1.RegionOperationsClient
            words["region"] = last(begun.region)
        else:
            kind = compute_v1.GlobalOperationsClient
        return self.ask("get", kind, f"the operation of {what}", **words)


def last(link: str) -> str:
    """What a link calls the thing itself."""
    return link.rpartition("/")[2]


def path_of(link: str) -> str:
    """A link from its project on: the host that it names depends on who wrote it."""
    _, found, rest = link.partition("projects/")
    return f"projects/{rest}" if found else link


def project_of(path: str, otherwise: str) -> str:
    """Whose a thing is: in a shared network it may be another project's."""
    words = path.split("/")
    return words[1] if words[0] == "projects" and len(words) > 1 else otherwise


def reasons_of(fault: google.api_core.exceptions.GoogleAPICallError) -> frozenset[str]:
    """Google's own words for why, such as `forbidden`."""
    told = [each.get("reason") for each in fault.errors or () if isinstance(each, Mapping)]
    return frozenset(str(each) for each in told if each)


class OwnAccount(google.auth.compute_engine.Credentials):
    """The instance's service account; its metadata service is never asked through a proxy."""

    def refresh(self, request: Any) -> None:
        renew: Any = super().refresh
        renew(_direct())


def _credentials() -> Any:
    """As Google's libraries find them everywhere: the environment's file, or the instance's own account."""
    found, _ = google.auth.default(scopes=[SCOPE], request=_direct())
    own: Any = OwnAccount
    return own(scopes=[SCOPE]) if isinstance(found, google.auth.compute_engine.Credentials) else found


def _direct() -> Any:
    """Past any proxy that the environment names."""
    session = requests.Session()
    session.trust_env = False
    made: Any = google.auth.transport.requests.Request
    return made(session)


def _endpoint() -> str:
    """Scheme and host; the library adds the path."""
    told = urlsplit(os.environ.get(ENDPOINT) or PUBLIC)
    return f"{told.scheme}://{told.netloc}"
