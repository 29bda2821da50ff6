"""Azure: the instance as Resource Manager knows it, what will happen to it, and its identity's tokens."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from tests.clouds.azure.arm import Arm
from tests.clouds.azure.network import prefixes
from tests.clouds.azure.store import Address
from tests.clouds.metadata.service import Service

VERSIONS: Final = {
    "/metadata/instance": ("2021-02-01", "2021-12-13", "2023-07-01"),
    "/metadata/scheduledevents": ("2020-07-01",),
    "/metadata/identity/oauth2/token": ("2018-02-01",),
}
"""Path: the versions that are told here; the service has more."""
VM_ID: Final = "02aab8a4-74ef-476e-8182-f6d2ba4166a6"


@dataclass
class Azure(Service):
    """Of one machine; its identifier in Resource Manager is given."""

    arm: Arm = field(default_factory=Arm)
    machine: str = ""
    identity: str = ""
    """The principal of the machine's identity, where it has one."""
    events: list[dict[str, Any]] = field(default_factory=list)
    incarnation: int = 1
    approved: list[str] = field(default_factory=list)
    """Events that the machine said may begin."""

    def schedule(self, kind: str, name: str) -> str:
        """Something is going to happen to a machine; the event's identifier."""
        event = f"event-{len(self.events) + 1}"
        self.incarnation += 1
        self.events.append(
            {
                "EventId": event,
                "EventType": kind,
                "ResourceType": "VirtualMachine",
                "Resources": [name],
                "EventStatus": "Scheduled",
                "NotBefore": "Tue, 01 Dec 2026 00:15:00 GMT",
                "Description": "",
                "EventSource": "Platform",
                "DurationInSeconds": -1,
            }
        )
        return event

    async def told(self, request: web.Request, *, expired: bool) -> web.Response:
        if request.headers.get("Metadata", "").lower() != "true":
            return _bad("Bad request. Required metadata header not specified")
        if "X-Forwarded-For" in request.headers:
            return _bad("Bad request. X-Forwarded-For header is not allowed")
        path = request.path.rstrip("/")
        versions = next((known for start, known in VERSIONS.items() if path.startswith(start)), None)
        if versions is None:
            return web.json_response({"error": "Not found"}, status=404)
        if request.query.get("api-version") not in versions:
            newest = {"newest-versions": sorted(versions, reverse=True)}
            return web.json_response(
                {"error": "Bad request. api-version is invalid or was not specified"} | newest, status=400
            )
        if path.startswith("/metadata/identity"):
            return self._token(request)
        if path.startswith("/metadata/scheduledevents"):
            return await self._scheduled(request)
        return self._instance(path.removeprefix("/metadata/instance"), request.query.get("format", "json"))

    def _token(self, request: web.Request) -> web.Response:
        if not self.identity:
            told = {"error": "invalid_request", "error_description": "Identity not found"}
            return web.json_response(told, status=400)
        return self.arm.identities.machine_token(self.identity, request.query.get("resource", ""))

    async def _scheduled(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            told = await request.json()
            self.approved += [each["EventId"] for each in told["StartRequests"]]
            return web.Response()
        return web.json_response({"DocumentIncarnation": self.incarnation, "Events": self.events})

    def _instance(self, below: str, form: str) -> web.Response:
        found: Any = self._document()
        for word in below.strip("/").split("/") if below else ():
            if isinstance(found, list) and re.fullmatch(r"\d+", word) and int(word) < len(found):
                found = found[int(word)]
            elif isinstance(found, dict) and word in found:
                found = found[word]
            else:
                return web.json_response({"error": "Not found"}, status=404)
        if form == "text":
            return (
                web.Response(text=str(found)) if isinstance(found, str) else _bad("format is not supported")
            )
        return web.json_response(found)

    def _document(self) -> dict[str, Any]:
        address = Address.of(self.machine)
        resource = self.arm.store.resources[address.key]
        compute = {
            "azEnvironment": "AzurePublicCloud",
            "location": resource["location"],
            "name": address.name,
            "resourceGroupName": address.group,
            "resourceId": str(address),
            "subscriptionId": address.subscription,
            "vmId": VM_ID,
            "vmScaleSetName": "",
            "zone": next(iter(resource.get("zones", [])), ""),
        }
        attached = resource["properties"].get("networkProfile", {}).get("networkInterfaces", [])
        return {
            "compute": compute,
            "network": {"interface": [self._interface(each["id"]) for each in attached]},
        }

    def _interface(self, name: str) -> dict[str, Any]:
        """As packets meet it: an address that is on its way is not in it."""
        interface = self.arm.store.effective[name.lower()]["properties"]
        addresses: dict[int, list[dict[str, str]]] = {4: [], 6: []}
        subnets = {}
        for each in interface["ipConfigurations"]:
            properties = each["properties"]
            version = ipaddress.ip_address(properties["privateIPAddress"]).version
            private = {"privateIpAddress": properties["privateIPAddress"]}
            addresses[version].append(private | ({"publicIpAddress": ""} if version == 4 else {}))
            subnet = self.arm.store.find(Address.of(properties["subnet"]["id"]))
            assert subnet is not None, "references were looked up before"
            range_ = next(each for each in prefixes(subnet) if each.version == 4)
            subnets[str(range_)] = {"address": str(range_.network_address), "prefix": str(range_.prefixlen)}
        return {
            "ipv4": {"ipAddress": addresses[4], "subnet": list(subnets.values())},
            "ipv6": {"ipAddress": addresses[6]},
            "macAddress": interface["macAddress"].replace("-", ""),
        }


def _bad(text: str) -> web.Response:
    return web.json_response({"error": text}, status=400)
