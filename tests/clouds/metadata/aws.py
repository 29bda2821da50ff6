"""AWS: the second version of the service, which wants a token that was asked for by PUT."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from tests.clouds.metadata.service import Service

TTL_HEADER: Final = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER: Final = "X-aws-ec2-metadata-token"
TTL_MAX_S: Final = 21_600


@dataclass(frozen=True)
class Interface:
    mac: str
    interface_id: str
    subnet_id: str
    subnet_range: str
    vpc_id: str
    vpc_range: str
    addresses: tuple[str, ...]


@dataclass
class Aws(Service):
    """Of one instance."""

    instance_id: str = "i-0123456789abcdef0"
    zone: str = "eu-central-1a"
    interfaces: Callable[[], list[Interface]] = list
    """Asked anew each time: a secondary address appears here when it has arrived."""
    role: str = ""
    hop_limit: int = 1
    """How many routers an answer with a token may pass."""
    action_soon: str = ""
    """What the cloud is about to do to a spot instance: stop, hibernate, terminate."""
    rebalance: str = ""
    """When it was said that a spot instance is at risk."""
    maintenance: list[dict[str, str]] = field(default_factory=list)
    """What is scheduled for it."""
    tokens: dict[str, float] = field(default_factory=dict)

    async def told(self, request: web.Request, *, expired: bool) -> web.Response:
        if request.path == "/latest/api/token":
            return self._token(request)
        until = self.tokens.get(request.headers.get(TOKEN_HEADER, ""), 0.0)
        if expired or until < time.monotonic():
            return web.Response(status=401, text="Unauthorized")
        if request.method != "GET":
            return web.Response(status=405)
        found: Any = self._tree()
        for word in request.path.strip("/").split("/"):
            if not isinstance(found, dict) or word not in found:
                return web.Response(status=404, text="Not Found")
            found = found[word]
        if isinstance(found, dict):
            names = [f"{name}/" if isinstance(inner, dict) else name for name, inner in found.items()]
            return web.Response(text="\n".join(names))
        return web.Response(text=found)

    def _token(self, request: web.Request) -> web.Response:
        if request.method != "PUT":
            return web.Response(status=405)
        if "X-Forwarded-For" in request.headers:
            # A proxy that forwards for others must not get one.
            return web.Response(status=403, text="Forbidden")
        told = request.headers.get(TTL_HEADER, "")
        if not told.isdigit() or not 1 <= int(told) <= TTL_MAX_S:
            return web.Response(status=400, text="Bad Request")
        connection = request.transport and request.transport.get_extra_info("socket")
        if connection is not None and connection.family == socket.AF_INET:
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, self.hop_limit)
        text = uuid.uuid4().hex
        self.tokens[text] = time.monotonic() + int(told)
        return web.Response(text=text, headers={TTL_HEADER: told})

    def _tree(self) -> dict[str, Any]:
        interfaces = self.interfaces()
        region = self.zone[:-1]
        data: dict[str, Any] = {
            "instance-id": self.instance_id,
            "placement": {"availability-zone": self.zone, "region": region},
            "network": {"interfaces": {"macs": {each.mac: _interface(each) for each in interfaces}}},
        }
        if interfaces:
            data |= {"mac": interfaces[0].mac, "local-ipv4": interfaces[0].addresses[0]}
        if self.role:
            data["iam"] = {"security-credentials": {self.role: json.dumps(_credentials())}}
        if self.action_soon:
            told = {"action": self.action_soon, "time": "2026-12-01T00:00:00Z"}
            data["spot"] = {"instance-action": json.dumps(told)}
        if self.rebalance:
            data["events"] = {"recommendations": {"rebalance": json.dumps({"noticeTime": self.rebalance})}}
        if self.maintenance:
            told_of = {"maintenance": {"scheduled": json.dumps(self.maintenance)}}
            data["events"] = data.get("events", {}) | told_of
        document = {"instanceId": self.instance_id, "region": region, "availabilityZone": self.zone}
        identity = {"instance-identity": {"document": json.dumps(document)}}
        return {"latest": {"meta-data": data, "dynamic": identity}}


def _interface(each: Interface) -> dict[str, str]:
    return {
        "interface-id": each.interface_id,
        "mac": each.mac,
        "subnet-id": each.subnet_id,
        "subnet-ipv4-cidr-block": each.subnet_range,
        "vpc-id": each.vpc_id,
        "vpc-ipv4-cidr-block": each.vpc_range,
        "vpc-ipv4-cidr-blocks": each.vpc_range,
        "local-ipv4s": "\n".join(each.addresses),
    }


def _credentials() -> dict[str, str]:
    return {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIASIMULATED",
        "SecretAccessKey": "simulated",
        "Token": "simulated",
        "LastUpdated": "2026-12-01T00:00:00Z",
        "Expiration": "2036-12-01T00:00:00Z",
    }
