"""Azure Resource Manager as a client meets it: tokens, permissions, ETags, slow operations."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from tests.clouds.azure import network
from tests.clouds.azure.compute import BECOMES, Machines
from tests.clouds.azure.identity import AUDIENCE, Identities
from tests.clouds.azure.refusals import busy, expired, forbidden, not_found
from tests.clouds.azure.routing import Asked, understood
from tests.clouds.azure.shapes import Json, Shapes
from tests.clouds.azure.store import CHILDREN, Address, ArmError, Operation, Store, list_of
from tests.clouds.knobs import Call, Do, Knob, Knobs, refusal
from tests.clouds.serving import lose

NETWORK: Final = Shapes.of("network-2025-09-01", "network-more-2026-03-01")
COMPUTE: Final = Shapes.of("compute-2026-04-01")
NAMES: Final = Shapes.of("dns-2018-05-01")

_SHAPES: Final[Mapping[str, tuple[Shapes, str]]] = {
    "Microsoft.Network/routeTables": (NETWORK, "routeTables"),
    "Microsoft.Network/routeTables/routes": (NETWORK, "routes"),
    "Microsoft.Network/networkInterfaces": (NETWORK, "networkInterfaces"),
    "Microsoft.Network/publicIPAddresses": (NETWORK, "publicIPAddresses"),
    "Microsoft.Network/loadBalancers": (NETWORK, "loadBalancers"),
    "Microsoft.Network/loadBalancers/backendAddressPools": (NETWORK, "backendAddressPools"),
    "Microsoft.Network/loadBalancers/probes": (NETWORK, "Probe"),
    "Microsoft.Network/networkSecurityGroups": (NETWORK, "networkSecurityGroups"),
    "Microsoft.Network/virtualNetworks": (NETWORK, "VirtualNetwork"),
    "Microsoft.Network/virtualNetworks/subnets": (NETWORK, "Subnet"),
    "Microsoft.Network/dnsZones": (NAMES, "Zone"),
    "Microsoft.Compute/virtualMachines": (COMPUTE, "virtualMachines"),
}
_CODES: Final = {429: "TooManyRequests", 500: "InternalServerError", 503: "ServiceUnavailable"}
POLL: Final = "locations/operations/read"
PERMISSIONS: Final = "/providers/Microsoft.Authorization/permissions"
PERMISSIONS_VERSION: Final = "2022-04-01"


def _shape(kind: str) -> tuple[Shapes, str]:
    if kind.startswith("Microsoft.Network/dnsZones/"):
        return NAMES, "RecordSet"
    return _SHAPES[kind]


@dataclass
class Arm:
    """One cloud of one tenant; a test changes it between requests."""

    knobs: Knobs = field(default_factory=Knobs)
    identities: Identities = field(default_factory=Identities)
    store: Store = field(default_factory=Store)
    faults: list[str] = field(default_factory=list)
    healthy: dict[str, bool] = field(default_factory=dict)
    """Machine to what a load balancer's probes see; a test, or one who probes, writes it."""
    retry_after_s: int | None = None
    """Told with everything that takes its time; without it a client waits as it likes."""

    def __post_init__(self) -> None:
        self.machines = Machines(self.store)
        self._writes_left = itertools.count(1199, -1)

    # --- for a test's own hands ---

    def put(self, path: str, body: Json) -> Json:
        """Make or change a resource at once, by the same rules as over HTTP and without a permission."""
        address = Address.of(path)
        self.store.groups.add((address.subscription.lower(), address.group.lower()))
        self._write(address, address.type, body)
        self.store.settle(address)
        self.store.changed()
        found = self.store.find(address)
        assert found is not None
        return network.presented(self.store, found)

    def get(self, path: str) -> Json | None:
        found = self.store.find(Address.of(path))
        return None if found is None else network.presented(self.store, found)

    # --- over HTTP ---

    async def answer(self, request: web.Request) -> web.StreamResponse:
        try:
            if not request.path.lower().startswith("/subscriptions/"):
                return await self.identities.answer(request)
            who = self._who(request)
            if "/locations/" in request.path:
                return await self._progress(request, who)
            if request.path.lower().endswith(PERMISSIONS.lower()):
                return self._permissions(request, who)
            return await self._serve(request, who)
        except ArmError as error:
            return _json(error.status, error.body())

    def _who(self, request: web.Request) -> str:
        """Who asks; or the refusal of a token."""
        authorization = request.headers.get("Authorization", "")
        if not authorization:
            raise ArmError(401, "AuthenticationFailed", "Authentication failed. No bearer token was given.")
        token = self.identities.of(authorization)
        if token is None:
            raise ArmError(401, "InvalidAuthenticationToken", "The access token is invalid.")
        if token.audience != AUDIENCE:
            raise ArmError(
                401,
                "InvalidAuthenticationTokenAudience",
                f"The access token has been obtained for wrong audience or resource '{token.audience}'.",
            )
        if token.has_expired():
            raise expired()
        return token.who

    async def _serve(self, request: web.Request, who: str) -> web.StreamResponse:
        asked = understood(request.method, request.path, request.query)
        body = await _body(request) if request.method in ("PUT", "PATCH") else {}
        target = request.path if asked.is_list else str(asked.address)
        call = Call((asked.action, *network.joins(body)), target, request.method != "GET", who)
        met = self.knobs.meet(call)
        try:
            answer = await self._decided(request, asked, body, call, met)
        except ArmError as error:
            answer = _json(error.status, error.body())
        if Do.LOST in met:
            self.knobs.note_done(call, 0)
            await lose(request, met[Do.LOST])
            return answer
        self.knobs.note_done(call, answer.status)
        if call.changes:
            answer.headers["x-ms-ratelimit-remaining-subscription-writes"] = str(next(self._writes_left))
        answer.headers["x-ms-request-id"] = str(uuid.uuid4())
        return answer

    async def _decided(
        self, request: web.Request, asked: Asked, body: Json, call: Call, met: Mapping[Do, Knob]
    ) -> web.Response:
        if Do.DELAY in met:
            await asyncio.sleep(met[Do.DELAY].seconds)
        if Do.EXPIRED in met:
            raise expired()
        refused = refusal(met)
        if refused is not None:
            return _refused(refused)
        lacking = self.knobs.missing(call, met)
        if lacking is not None:
            raise forbidden(call, lacking)
        self.knobs.note_used(call)
        self._require_group(asked)
        if asked.is_list:
            return self._list(asked, met)
        if Do.OVERTAKEN in met:
            self.store.touch(asked.address)
        if request.method == "GET":
            return self._read(asked, request, met)
        if request.method == "POST":
            return self._act(request, asked, met)
        if request.method == "DELETE":
            return self._delete(request, asked, met)
        return self._put(request, asked, body, met)

    def _require_group(self, asked: Asked) -> None:
        subscription = asked.words["subscriptionId"].lower()
        if subscription not in {each for each, _ in self.store.groups}:
            raise ArmError(
                404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found."
            )
        group = asked.words.get("resourceGroupName")
        if group is not None and (subscription, group.lower()) not in self.store.groups:
            raise ArmError(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")

    # --- reading ---

    def _among(self, met: Mapping[Do, Knob]) -> Mapping[str, Json]:
        if Do.STALE not in met:
            return self.store.resources
        return self.store.before(met[Do.STALE].changes, met[Do.STALE].seconds)

    def _read(self, asked: Asked, request: web.Request, met: Mapping[Do, Knob]) -> web.Response:
        found = self.store.find(asked.address, self._among(met))
        if found is None:
            raise not_found(asked.address)
        if asked.verb:
            return self._answer(200, COMPUTE, "VirtualMachineInstanceView", self.machines.view(asked.address))
        shown = network.presented(self.store, found)
        if request.query.get("$expand") == "instanceView":
            shown["properties"]["instanceView"] = self.machines.view(asked.address)
        answer = self._answer(200, *_shape(asked.kind), shown)
        if "etag" in shown:
            answer.headers["ETag"] = shown["etag"]
        return answer

    def _list(self, asked: Asked, met: Mapping[Do, Knob]) -> web.Response:
        among = self._among(met)
        prefix = asked.path.lower()
        if asked.operation.name in ("list_all",):
            within = f"/subscriptions/{asked.words['subscriptionId']}/".lower()
            found = [each for key, each in among.items() if key.startswith(within)]
        elif len(asked.kind.split("/")) > 2 and asked.kind.rsplit("/", 1)[0].lower() in CHILDREN:
            parent = Address.of(asked.path.rsplit("/", 1)[0])
            held = self.store.find(parent, among)
            if held is None:
                raise not_found(parent)
            found = held["properties"].get(asked.kind.rsplit("/", 1)[1], [])
        else:
            found = [each for key, each in among.items() if key.startswith(f"{prefix}/")]
        shapes, shape = _shape(asked.kind)
        shown = [
            network.presented(self.store, each)
            for each in found
            if each["type"].lower() == asked.kind.lower()
        ]
        for each in shown:
            self._judge(shapes, shape, each)
        return _json(200, {"value": shown})

    # --- writing ---

    def _put(self, request: web.Request, asked: Asked, body: Json, met: Mapping[Do, Knob]) -> web.Response:
        address = asked.address
        current = self.store.find(address)
        self._require_etag(request, address, current)
        if request.method == "PATCH":
            body = self._patched(asked, body, current)
        if self.store.busy_elsewhere(address):
            raise busy(address)
        self.store.remember()
        try:
            self._write(address, asked.kind, body)
        except ArmError:
            # What was refused is no step of the past.
            self.store.past.pop()
            raise
        if asked.operation.service == "dns":
            self.store.settle(address)
        else:
            operation = self._begin(address, met, lambda: self.store.settle(address))
        found = self.store.find(address)
        assert found is not None
        answer = self._answer(
            201 if current is None else 200, *_shape(asked.kind), network.presented(self.store, found)
        )
        if asked.operation.service != "dns":
            self._add_progress(request, answer, operation, asked)
        return answer

    def _patched(self, asked: Asked, body: Json, current: Json | None) -> Json:
        if current is None:
            raise not_found(asked.address)
        if asked.operation.name == "update_tags" and set(body) - {"tags"}:
            raise ArmError(400, "InvalidRequestContent", "Only tags can be changed by PATCH.")
        kept = _writable(current)
        return kept | {
            name: kept[name] | value
            if isinstance(value, dict) and isinstance(kept.get(name), dict)
            else value
            for name, value in body.items()
        }

    def _write(self, address: Address, kind: str, body: Json) -> None:
        """Put it into the store as something that is under way; nothing is changed if it is refused."""
        current = self.store.find(address)
        shapes, shape = _shape(kind)
        known = {"id": str(address), "name": address.name, "type": address.type}
        shown = network.presented(self.store, current) if current else known
        faults = list(shapes.request_faults(shape, body, shown))
        if faults:
            details = [{"code": "InvalidJson", "message": each} for each in faults]
            raise ArmError(400, "InvalidRequestFormat", f"Cannot parse the request. {faults[0]}", details)
        whole = len(address.pairs) == 1
        if whole and not body.get("location"):
            raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
        resource = network.made(self.store, address, body, current)
        if not address.is_child:
            if kind.startswith("Microsoft.Network/dnsZones/"):
                resource["properties"]["fqdn"] = f"{address.name}.{address.pairs[0][1]}."
            network.check(self.store, resource)
            self.store.resources[address.key] = resource
        else:
            self._write_member(address, resource)
        self.store.mark(address, "Updating")

    def _write_member(self, address: Address, member: Json) -> None:
        parent = self.store.find(address.top)
        if parent is None:
            raise ArmError(
                404, "ParentResourceNotFound", f"The parent resource of '{address}' was not found."
            )
        changed = copy.deepcopy(parent)
        members = changed["properties"].setdefault(list_of(address), [])
        members[:] = [each for each in members if each["name"].lower() != address.name.lower()] + [member]
        network.check(self.store, changed)
        self.store.resources[address.top.key] = changed

    def _delete(self, request: web.Request, asked: Asked, met: Mapping[Do, Knob]) -> web.Response:
        address = asked.address
        current = self.store.find(address)
        if current is None:
            return web.Response(status=204)
        self._require_etag(request, address, current)
        if self.store.busy_elsewhere(address):
            raise busy(address)
        network.check_unused(self.store, address)
        self.store.remember()

        def finish() -> None:
            if address.is_child:
                members = self.store.resources[address.top.key]["properties"][list_of(address)]
                members[:] = [each for each in members if each["name"].lower() != address.name.lower()]
            else:
                del self.store.resources[address.key]
            self.store.settle(address)

        if asked.operation.service == "dns":
            finish()
            return web.Response(status=200)
        self.store.mark(address, "Deleting")
        operation = self._begin(address, met, finish)
        answer = web.Response(status=202)
        self._add_progress(request, answer, operation, asked)
        return answer

    def _act(self, request: web.Request, asked: Asked, met: Mapping[Do, Knob]) -> web.Response:
        if asked.verb not in BECOMES:
            self.faults.append(f"{asked.action}: the cloud can do this, and the simulator cannot")
            return _json(501, {"error": {"code": "NotSimulated", "message": asked.action}})
        address = asked.address
        if self.store.find(address) is None:
            raise not_found(address)
        self.store.remember()
        self.machines.begin(address, asked.verb)
        operation = self._begin(address, met, lambda: self.machines.finish(address, asked.verb))
        answer = web.Response(status=202)
        self._add_progress(request, answer, operation, asked)
        return answer

    def _require_etag(self, request: web.Request, address: Address, current: Json | None) -> None:
        wanted = request.headers.get("If-Match")
        mine = current and current.get("etag")
        if wanted is not None and (current is None or wanted not in ("*", mine)):
            raise ArmError(
                412,
                "PreconditionFailed",
                "Precondition failed.",
                [
                    {
                        "code": "PreconditionFailedEtagMismatch",
                        "message": f"Etag provided in if-match header {wanted} does not match etag {mine} "
                        f"of resource {address} in NRP data store.",
                    }
                ],
            )
        if request.headers.get("If-None-Match") == "*" and current is not None:
            raise ArmError(412, "PreconditionFailed", f"The resource {address} exists already.")

    # --- operations that take their time ---

    def _begin(self, address: Address, met: Mapping[Do, Knob], finish) -> Operation:  # type: ignore[no-untyped-def]
        seconds = met[Do.SLOW].seconds if Do.SLOW in met else 0.0
        error = (met[Do.FAILS].code or "InternalServerError") if Do.FAILS in met else None
        return self.store.begin(address, finish, seconds, error)

    def _add_progress(
        self, request: web.Request, answer: web.Response, operation: Operation, asked: Asked
    ) -> None:
        signed = "&".join(f"{name}={text}" for name, text in operation.signature.items())
        place = (
            f"{request.scheme}://{request.host}/subscriptions/{asked.words['subscriptionId']}/providers/"
            f"{operation.about.namespace}/locations/westeurope"
        )
        tail = f"{operation.id}?api-version={asked.operation.api_version}&{signed}"
        answer.headers["Azure-AsyncOperation"] = f"{place}/operations/{tail}"
        if answer.status == 202:
            answer.headers["Location"] = f"{place}/operationResults/{tail}"
        if self.retry_after_s is not None:
            answer.headers["Retry-After"] = str(self.retry_after_s)

    async def _progress(self, request: web.Request, who: str) -> web.StreamResponse:
        """How an operation stands; asked by its own address, which must come back as it was given."""
        words = request.path.strip("/").split("/")
        operation = self.store.operations.get(words[-1])
        told = {name: text for name, text in request.query.items() if name != "api-version"}
        if operation is None or told != operation.signature:
            raise ArmError(404, "OperationNotFound", f"The operation '{words[-1]}' was not found.")
        call = Call((f"{words[3]}/{POLL}",), str(operation.about), False, who)
        met = self.knobs.meet(call)
        if Do.DELAY in met:
            await asyncio.sleep(met[Do.DELAY].seconds)
        if Do.EXPIRED in met:
            raise expired()
        refused = refusal(met)
        if refused is not None:
            return _refused(refused)
        if words[-2] == "operationResults":
            return web.Response(status=200 if operation.ended else 202)
        answer: Json = {"name": operation.id, "status": operation.status}
        if operation.error:
            answer["error"] = operation.error
        response = _json(200, answer)
        if self.retry_after_s is not None and not operation.ended:
            response.headers["Retry-After"] = str(self.retry_after_s)
        return response

    # --- rights ---

    def _permissions(self, request: web.Request, who: str) -> web.Response:
        """What the caller may do on a scope, as its roles say; a knob that denies is an exception in them."""
        if request.method != "GET" or dict(request.query) != {"api-version": PERMISSIONS_VERSION}:
            raise ArmError(400, "InvalidRequest", f"Permissions are read with {PERMISSIONS_VERSION}.")
        scope = request.path[: -len(PERMISSIONS)]
        if len(scope.split("/")) > 5 and self.store.find(Address.of(scope)) is None:
            raise not_found(Address.of(scope))
        call = Call(("Microsoft.Authorization/permissions/read",), scope, False, who)
        met = self.knobs.meet(call)
        lacking = self.knobs.missing(call, met)
        self.knobs.note_done(call, 200 if lacking is None else 403)
        if lacking is not None:
            raise forbidden(call, lacking)
        self.knobs.note_used(call)
        entry = {
            "actions": list(self.knobs.allowed(who)),
            "notActions": self.knobs.denied(scope, who),
            "dataActions": [],
            "notDataActions": [],
        }
        return _json(200, {"value": [entry]})

    # --- answering ---

    def _answer(self, status: int, shapes: Shapes, shape: str, body: Json) -> web.Response:
        self._judge(shapes, shape, body)
        return _json(status, body)

    def _judge(self, shapes: Shapes, shape: str, body: Json) -> None:
        self.faults += [f"answer {shape}: {fault}" for fault in shapes.answer_faults(shape, body)]


def _writable(resource: Json) -> Json:
    return {name: copy.deepcopy(value) for name, value in resource.items() if name not in ("etag",)}


async def _body(request: web.Request) -> Json:
    try:
        body = json.loads(await request.read())
    except ValueError as fault:
        raise ArmError(400, "InvalidRequestContent", f"The request content was invalid: {fault}") from None
    if not isinstance(body, dict):
        raise ArmError(400, "InvalidRequestContent", "The request content is no object.")
    return body


def _json(status: int, body: Json) -> web.Response:
    return web.json_response(body, status=status)


def _refused(knob: Knob) -> web.Response:
    code = knob.code or _CODES.get(knob.status, "Error")
    answer = _json(knob.status, {"error": {"code": code, "message": "Asked for by the test."}})
    if knob.retry_after_s is not None:
        answer.headers["Retry-After"] = str(knob.retry_after_s)
    return answer
