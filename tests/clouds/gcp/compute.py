"""Compute Engine as a client meets it: tokens, permissions, operations that run, fingerprints."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from tests.clouds.gcp import rules
from tests.clouds.gcp.changes import Changes
from tests.clouds.gcp.dns import Zones
from tests.clouds.gcp.errors import GoogleError
from tests.clouds.gcp.schemas import Json, Method, Service
from tests.clouds.gcp.store import LINK, Store
from tests.clouds.gcp.tokens import answer_token, own_token
from tests.clouds.knobs import Call, Do, Knob, Knobs, refusal
from tests.clouds.serving import lose
from tests.clouds.tokens import Tokens

COMPUTE: Final = Service.of("compute-v1")
NAMES: Final = Service.of("dns-v1")
AUDIENCE: Final = "https://www.googleapis.com/auth/cloud-platform"

OPERATIONS: Final = ("globalOperations", "regionOperations", "zoneOperations")
READS: Final = ("get", "list", "aggregatedList", "wait", "getHealth", "listInstances", "testIamPermissions")
"""Methods that change nothing, whatever their verb."""
FREE: Final = "testIamPermissions"
"""What everybody may ask: which permissions he has."""


@dataclass
class Compute:
    """One cloud; a test changes it between requests."""

    knobs: Knobs = field(default_factory=Knobs)
    tokens: Tokens = field(default_factory=Tokens)
    store: Store = field(default_factory=Store)
    faults: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    """Service account to the public key that its signatures are checked with."""
    wait_s: float = 1.0
    """As long as a `wait` waits at most; the service's own are two minutes."""

    def __post_init__(self) -> None:
        self.changes = Changes(self.store)
        self.zones = Zones(self.store)

    def put(self, path: str, body: Json) -> Json:
        """Make or replace a resource at once, without a permission."""
        made = self.changes.made(path, body)
        self.store.changed()
        return made

    async def answer(self, request: web.Request) -> web.StreamResponse:
        try:
            if request.path == "/token":
                return await answer_token(self.tokens, request, AUDIENCE, self.keys)
            who = self._who(request)
            service = NAMES if request.path.startswith("/dns/") else COMPUTE
            method, words = service.understood(request.method, request.path, request.query)
            return await self._serve(request, service, method, words, who)
        except GoogleError as error:
            return _json(error.status, error.body())

    def _who(self, request: web.Request) -> str:
        authorization = request.headers.get("Authorization", "")
        token = self.tokens.of(authorization) or own_token(authorization, self.keys)
        if token is None or token.has_expired():
            raise _unauthenticated()
        return token.who

    async def _serve(
        self, request: web.Request, service: Service, method: Method, words: Mapping[str, str], who: str
    ) -> web.StreamResponse:
        body = await _body(request) if method.request else {}
        verb = method.id.rsplit(".", 1)[1]
        path = request.path.split("/v1/", 1)[1].removesuffix(f"/{verb}")
        call = Call(rules.needs(method.id, body), path, verb not in READS, who)
        met = self.knobs.meet(call)
        try:
            asked = Asked(method, path, words, dict(request.query), body, who)
            answer = await self._decided(service, asked, call, met)
        except GoogleError as error:
            answer = _json(error.status, error.body())
        if Do.LOST in met:
            self.knobs.note_done(call, 0)
            await lose(request, met[Do.LOST])
            return answer
        self.knobs.note_done(call, answer.status)
        return answer

    async def _decided(
        self, service: Service, asked: Asked, call: Call, met: Mapping[Do, Knob]
    ) -> web.Response:
        if Do.DELAY in met:
            await asyncio.sleep(met[Do.DELAY].seconds)
        if Do.EXPIRED in met:
            raise _unauthenticated()
        refused = refusal(met)
        if refused is not None:
            return _refused(refused)
        if not call.action.endswith(FREE):
            lacking = self.knobs.missing(call, met)
            if lacking is not None:
                raise GoogleError(403, "forbidden", f"Required '{lacking}' permission for '{asked.path}'")
            self.knobs.note_used(call)
        if Do.OVERTAKEN in met:
            self.changes.overtake(asked.path)
        if asked.method.request:
            current = self.store.resources.get(asked.path)
            faults = list(service.request_faults(asked.method, asked.body, current))
            if faults:
                raise GoogleError(400, "invalid", faults[0])
        told = await self._told(asked, met)
        assert asked.method.response is not None
        self.faults += [
            f"{asked.method.id}: {fault}" for fault in service.answer_faults(asked.method.response, told)
        ]
        return _json(200, told)

    async def _told(self, asked: Asked, met: Mapping[Do, Knob]) -> Json:
        service, resource, verb = asked.method.id.split(".")
        if service == "dns":
            among = self._among(met)
            return self.zones.answer(resource, verb, asked.words, asked.query, asked.body, among)
        if resource in OPERATIONS:
            return await self._operation(asked, verb)
        if verb in READS:
            return self._read(asked, resource, verb, met)
        return self._change(asked, resource, verb, met)

    # --- reading ---

    def _among(self, met: Mapping[Do, Knob]) -> Mapping[str, Json]:
        if Do.STALE not in met:
            return self.store.resources
        return self.store.before(met[Do.STALE].changes, met[Do.STALE].seconds)

    def _read(self, asked: Asked, resource: str, verb: str, met: Mapping[Do, Knob]) -> Json:
        among = self._among(met)
        if verb == "get":
            return self._shown(self.store.need(asked.path, among))
        if verb == "list":
            found = [each for path, each in among.items() if path.rsplit("/", 1)[0] == asked.path]
            return _page(asked, resource, [self._shown(each) for each in found])
        if verb == "aggregatedList":
            return self._scoped(asked, resource, among)
        if verb == "testIamPermissions":
            asked_for = asked.body.get("permissions", [])
            held = [
                each for each in asked_for if self.knobs.holds(Call((each,), asked.path, False, asked.who))
            ]
            return {"permissions": held} if held else {}
        if verb == "listInstances":
            return self.changes.members(asked.path)
        assert verb == "getHealth"
        return self.changes.health_of(asked.path, asked.body)

    def _shown(self, resource: Json) -> Json:
        if resource["kind"] != "compute#route":
            return resource
        warned = rules.warnings(self.store, resource)
        return resource | ({"warnings": warned} if warned else {})

    def _scoped(self, asked: Asked, resource: str, among: Mapping[str, Json]) -> Json:
        scopes: dict[str, Json] = {}
        for path, each in among.items():
            words = path.split("/")
            if len(words) > 5 and words[4] == resource and f"projects/{words[1]}" in asked.path:
                wanted = asked.query.get("filter")
                if wanted is None or rules.fits(each, wanted):
                    scopes.setdefault(f"{words[2]}/{words[3]}", {resource: []})[resource].append(each)
        return {"kind": f"compute#{_singular(resource)}AggregatedList", "items": scopes}

    async def _operation(self, asked: Asked, verb: str) -> Json:
        if verb == "list":
            held = self.store.operations.items()
            found = [each.told for path, each in held if path.rsplit("/", 1)[0] == asked.path]
            return _page(asked, "operations", found)
        running = self.store.operations.get(asked.path)
        if running is None:
            raise GoogleError(404, "notFound", f"The resource '{asked.path}' was not found")
        if verb == "wait":
            # The service waits at its own discretion, and may answer before the end.
            with suppress(TimeoutError):
                await asyncio.wait_for(running.over.wait(), self.wait_s)
        return running.told

    # --- changing ---

    def _change(self, asked: Asked, resource: str, verb: str, met: Mapping[Do, Knob]) -> Json:
        request = asked.query.get("requestId", "")
        if request and not _is_uuid(request):
            raise GoogleError(400, "invalid", f"Invalid value for field 'requestId': '{request}' is no UUID.")
        begun = self.store.requests.get((asked.method.id, request)) if request else None
        if begun is not None:
            # The same request once more: its first one's operation, and no second effect.
            return self.store.operations[begun].told
        self.store.require_ready(asked.path)
        about, finish = self.changes.prepared(resource, verb, asked.path, asked.query, asked.body)
        self.store.remember()
        told = self._begin(verb, about, asked.who, finish, met)
        if request:
            self.store.requests[(asked.method.id, request)] = told["selfLink"].removeprefix(LINK)
        return told

    def _begin(
        self, verb: str, about: str, who: str, finish: Callable[[], None], met: Mapping[Do, Knob]
    ) -> Json:
        seconds = met[Do.SLOW].seconds if Do.SLOW in met else 0.0
        error = (met[Do.FAILS].code or "INTERNAL_ERROR") if Do.FAILS in met else None
        return self.store.begin(verb, about, who, finish, seconds, error)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was understood; the path has no verb at its end."""

    method: Method
    path: str
    words: Mapping[str, str]
    query: Mapping[str, str]
    body: Json
    who: str


def _is_uuid(text: str) -> bool:
    try:
        return uuid.UUID(text).int != 0
    except ValueError:
        return False


def _page(asked: Asked, resource: str, found: list[Json]) -> Json:
    wanted = asked.query.get("filter")
    if wanted is not None:
        found = [each for each in found if rules.fits(each, wanted)]
    begin = int(asked.query.get("pageToken", "0"))
    size = int(asked.query.get("maxResults", "500"))
    told: Json = {"kind": f"compute#{_singular(resource)}List", "id": asked.path}
    if found[begin : begin + size]:
        told["items"] = found[begin : begin + size]
    if begin + size < len(found):
        told["nextPageToken"] = str(begin + size)
    return told


def _singular(collection: str) -> str:
    return collection.removesuffix("es") if collection.endswith("sses") else collection.removesuffix("s")


async def _body(request: web.Request) -> Json:
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError as fault:
        raise GoogleError(400, "parseError", f"Parse Error: {fault}") from None
    if not isinstance(body, dict):
        raise GoogleError(400, "parseError", "Parse Error: the body is no object")
    return body


def _json(status: int, body: Json) -> web.Response:
    return web.json_response(body, status=status)


def _refused(knob: Knob) -> web.Response:
    reason = knob.code or {429: "rateLimitExceeded", 503: "backendError"}.get(knob.status, "internalError")
    answer = _json(knob.status, GoogleError(knob.status, reason, "Asked for by the test.").body())
    if knob.retry_after_s is not None:
        answer.headers["Retry-After"] = str(knob.retry_after_s)
    return answer


def _unauthenticated() -> GoogleError:
    return GoogleError(401, "authError", "Request had invalid authentication credentials.")
