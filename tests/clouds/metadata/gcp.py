"""GCP: the instance as Compute Engine knows it, and a reader who waits until something changes."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from tests.clouds.gcp.compute import AUDIENCE, Compute
from tests.clouds.gcp.store import path_of
from tests.clouds.metadata.service import Service

ROOT: Final = "/computeMetadata/v1/"
FLAVOR: Final = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}
LOOK_S: Final = 0.02
"""How often somebody who waits for a change looks whether there is one."""
WAIT_MAX_S: Final = 300.0


@dataclass
class Gcp(Service):
    """Of one machine; its path in Compute Engine is given."""

    cloud: Compute = field(default_factory=Compute)
    machine: str = ""
    account: str = ""
    """The service account that the machine runs under, where it has one."""
    maintenance: str = "NONE"
    preempted: bool = False

    async def told(self, request: web.Request, *, expired: bool) -> web.Response:
        answer = await self._told(request)
        answer.headers.update(FLAVOR)
        return answer

    async def _told(self, request: web.Request) -> web.Response:
        if request.path == "/":
            # So that a client knows where it is.
            return web.Response(text="computeMetadata/\n")
        if request.headers.get("Metadata-Flavor") != "Google" or "X-Forwarded-For" in request.headers:
            return web.Response(status=403, text="Missing Metadata-Flavor:Google header.")
        if not request.path.startswith(ROOT):
            return web.Response(status=404)
        text = self._read(request)
        if text is not None and request.query.get("wait_for_change") == "true":
            await self._changed(request, text)
            text = self._read(request)
        if text is None:
            return web.Response(status=404)
        is_json = request.query.get("recursive") == "true" and request.query.get("alt") != "text"
        kind = "application/json" if is_json or request.path.endswith("/token") else "application/text"
        return web.Response(text=text, content_type=kind, headers={"ETag": _etag(text)})

    async def _changed(self, request: web.Request, first: str) -> None:
        """Until it is other than what the caller knows, or the time is over."""
        known = request.query.get("last_etag", _etag(first))

        async def wait() -> None:
            while _etag(self._read(request) or "") == known:  # noqa: ASYNC110 - what changes knows no event
                await asyncio.sleep(LOOK_S)

        with suppress(TimeoutError):
            await asyncio.wait_for(wait(), float(request.query.get("timeout_sec", WAIT_MAX_S)))

    def _read(self, request: web.Request) -> str | None:
        found: Any = self._tree()
        below = request.path.removeprefix(ROOT)
        if re.fullmatch(r"instance/service-accounts/[^/]+/token", below) and self.account:
            text, token = self.cloud.tokens.give(self.account, AUDIENCE)
            self.cloud.tokens.asked += 1
            return json.dumps({"access_token": text, "expires_in": token.left_s, "token_type": "Bearer"})
        for word in (each for each in below.split("/") if each):
            name = _camel(word)
            if isinstance(found, list) and word.isdigit() and int(word) < len(found):
                found = found[int(word)]
            elif isinstance(found, dict) and (name in found or word in found):
                found = found[name] if name in found else found[word]
            else:
                return None
        if request.query.get("recursive") == "true":
            return json.dumps(found)
        if isinstance(found, dict):
            return "".join(f"{_kebab(name)}{_slash(inner)}\n" for name, inner in found.items())
        if isinstance(found, list):
            is_plain = not any(isinstance(each, dict) for each in found)
            return "\n".join(found) if is_plain else "".join(f"{place}/\n" for place in range(len(found)))
        return str(found)

    def _tree(self) -> dict[str, Any]:
        resource = self.cloud.store.resources[self.machine]
        words = self.machine.split("/")
        instance: dict[str, Any] = {
            "id": int(resource["id"]),
            "name": words[-1],
            "hostname": f"{words[-1]}.{words[3]}.c.{words[1]}.internal",
            "zone": f"projects/{words[1]}/zones/{words[3]}",
            "maintenanceEvent": self.maintenance,
            "preempted": str(self.preempted).upper(),
            "networkInterfaces": [self._interface(each) for each in resource["networkInterfaces"]],
        }
        if self.account:
            account = {"aliases": ["default"], "email": self.account, "scopes": [AUDIENCE]}
            instance["serviceAccounts"] = {self.account: account, "default": account}
        return {"instance": instance, "project": {"projectId": words[1], "numericProjectId": 1234567890}}

    def _interface(self, interface: dict[str, Any]) -> dict[str, Any]:
        subnet = self.cloud.store.resources[path_of(interface["subnetwork"])]
        range_ = ipaddress.ip_network(subnet["ipCidrRange"])
        packed = ipaddress.ip_address(interface["networkIP"]).packed
        forwarded = [
            each["IPAddress"]
            for each in self.cloud.store.resources.values()
            if each.get("kind") == "compute#forwardingRule" and self._is_target(each.get("target", ""))
        ]
        return {
            "ip": interface["networkIP"],
            "ipAliases": [each["ipCidrRange"] for each in interface.get("aliasIpRanges", [])],
            "forwardedIps": forwarded,
            "gateway": str(range_[1]),
            "mac": ":".join(["42", "01", *(f"{each:02x}" for each in packed)]),
            "network": "projects/1234567890/networks/" + interface["network"].rsplit("/", 1)[1],
            "subnetmask": str(range_.netmask),
        }

    def _is_target(self, target: str) -> bool:
        held = self.cloud.store.resources.get(path_of(target), {}) if target else {}
        return path_of(held.get("instance", "projects/")) == self.machine


def _etag(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _camel(word: str) -> str:
    return re.sub(r"-(\w)", lambda found: found[1].upper(), word)


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", lambda found: "-" + found[1].lower(), name)


def _slash(inner: object) -> str:
    return "/" if isinstance(inner, dict | list) else ""
