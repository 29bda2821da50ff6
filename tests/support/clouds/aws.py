"""AWS on loopback: moto with its known faults mended, knobs before it, a metadata service for each node."""

from __future__ import annotations

import fnmatch
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qsl

import boto3
import moto
from moto.backends import get_backend
from moto.ec2 import utils
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instances import Instance
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.route53.exceptions import Route53ClientError
from moto.route53.models import RecordSet, Route53Backend
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.support.clouds.knobs import Answer, Knobs, Request

VERSION: Final = "5.2.5"
"""What is mended below was wrong in this one; look again before another is pinned."""
REGION: Final = "eu-west-1"
READS: Final = ("Describe", "Get", "List", "AssumeRole")
IMAGE: Final = "ami-12c6146b"
"""One that moto knows."""
ZONES: Final = (f"{REGION}a", f"{REGION}b", f"{REGION}c")
SLOW_TO_STOP: Final[set[str]] = set()
"""Instances that are `stopping` for ever once they are stopped, as a system that does not end."""
assert moto.__version__ == VERSION, "look which of moto's faults are still there"


# --- what moto does otherwise than AWS ------------------------------------------------------------------


def mend() -> None:
    """Once a process."""
    if getattr(EC2Backend, "mended", False):
        return
    EC2Backend.mended = True  # type: ignore[attr-defined]
    assign, unassign = EC2Backend.assign_private_ip_addresses, EC2Backend.unassign_private_ip_addresses
    create, matches = EC2Backend.create_route, utils.is_filter_matching
    stop = Instance.stop

    def assign_rightly(self: Any, eni_id: str, private_ip_addresses: Any = None, *rest: Any) -> Any:
        me = self.get_network_interface(eni_id)
        for address in private_ip_addresses or ():
            for other in self.enis.values():
                held = other.subnet.id == me.subnet.id and other.id != eni_id and address in _addresses(other)
                if held:
                    # Nobody of ours asks for AllowReassignment: it is a theft without a look.
                    raise EC2ClientError("InvalidParameterValue", f"{address} is assigned to {other.id}")
        return assign(self, eni_id, private_ip_addresses, *rest)

    def unassign_rightly(self: Any, eni_id: str, private_ip_addresses: Any = None, *rest: Any) -> Any:
        here = _addresses(self.get_network_interface(eni_id))
        if any(address not in here for address in private_ip_addresses or ()):
            raise EC2ClientError("InvalidParameterValue", "Some of the addresses are not assigned")
        return unassign(self, eni_id, private_ip_addresses, *rest)

    def create_rightly(
        self: Any, route_table_id: str, destination_cidr_block: Any, *rest: Any, **more: Any
    ) -> Any:
        wanted = destination_cidr_block or more.get("destination_ipv6_cidr_block") or (rest and rest[0])
        there = self.get_route_table(route_table_id).routes
        if any(wanted in (each.destination_cidr_block, each.destination_ipv6_cidr_block) for each in there):
            raise EC2ClientError("RouteAlreadyExists", f"The route identified by {wanted} already exists")
        return create(self, route_table_id, destination_cidr_block, *rest, **more)

    def stop_in_time(self: Any) -> Any:
        """AWS shows `stopping` first, moto never."""
        before = stop(self)
        if self.id in SLOW_TO_STOP and before.name != "stopped":
            self._state.name, self._state.code = "stopping", 64
        return before

    def any_address(one: Any, name: str, wanted: Any) -> Any:
        """AWS finds secondary addresses too, and an interface that has any of those in the filter."""
        if isinstance(one, NetworkInterface) and name == "addresses.private-ip-address":
            return not set(_addresses(one)).isdisjoint(wanted)
        if isinstance(one, NetworkInterface) and name == "ipv6-addresses.ipv6-address":
            return not set(one.ipv6_addresses).isdisjoint(wanted)
        return matches(one, name, wanted)

    Route53Backend.change_resource_record_sets = change_records  # type: ignore[method-assign]
    EC2Backend.assign_private_ip_addresses = assign_rightly  # type: ignore[method-assign]
    EC2Backend.unassign_private_ip_addresses = unassign_rightly  # type: ignore[method-assign,assignment]
    EC2Backend.create_route = create_rightly  # type: ignore[method-assign]
    Instance.stop = stop_in_time  # type: ignore[method-assign]
    utils.is_filter_matching = any_address


def backend() -> Any:
    return get_backend("ec2")["123456789012"][REGION]


def _addresses(eni: Any) -> list[str]:
    return [str(each["PrivateIpAddress"]) for each in eni.private_ip_addresses]


_CHANGING: Final = threading.Lock()


def change_records(self: Any, zoneid: str, change_list: list[dict[str, Any]]) -> None:
    """A batch as Route 53 takes it: whole or not at all, and a DELETE names a record exactly."""
    with _CHANGING:
        zone = self.get_hosted_zone(zoneid)
        there = {(each.name, each.type): each for each in zone.rrsets}
        for change in change_list:
            told = change["ResourceRecordSet"]
            name, kind = f"{told['Name'].rstrip('.')}.", told["Type"]
            values = [each["Value"] for each in told["ResourceRecords"]]
            where = f"resource record set [name='{name}', type='{kind}']"
            found = there.get((name, kind))
            if change["Action"] == "DELETE":
                if found is None:
                    raise _refused_batch(f"Tried to delete {where} but it was not found")
                if (str(found.ttl), sorted(found.records)) != (str(told["TTL"]), sorted(values)):
                    why = "but the values provided do not match the current values"
                    raise _refused_batch(f"Tried to delete {where} {why}")
                del there[name, kind]
            elif change["Action"] == "CREATE" and found is not None:
                raise _refused_batch(f"Tried to create {where} but it already exists")
            else:
                there[name, kind] = RecordSet({**told, "Name": name, "ResourceRecords": values})
        zone.rrsets = list(there.values())


def _refused_batch(why: str) -> Route53ClientError:
    return Route53ClientError("InvalidChangeBatch", f"[{why}]")


# --- AWS' form ------------------------------------------------------------------------------------------


class Aws:
    """The query protocol: EC2, load balancers, STS."""

    def read(self, environ: Mapping[str, Any], body: bytes) -> Request | None:
        scope = re.search(r"Credential=([^/]+)/[^/]+/[^/]+/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        words = _of_dns(environ, body) or dict(parse_qsl(body.decode("utf-8", "replace")))
        if "Action" not in words or scope is None:
            return None
        action = words["Action"]
        changes = not action.startswith(READS) and words.get("DryRun") != "true"
        return Request(scope[1], scope[2], action, words, changes)

    def refuse(self, request: Request, kind: str) -> Answer:
        status, code, text = {
            "throttled": ("503 Slow Down", "RequestLimitExceeded", "Request limit exceeded."),
            "broken": ("500 Internal Server Error", "InternalError", "An internal error has occurred"),
            "denied": ("403 Forbidden", "UnauthorizedOperation", "You are not authorized"),
            "expired": ("400 Bad Request", "ExpiredToken", "The security token has expired"),
            "trial": ("412 Precondition Failed", "DryRunOperation", "Request would have succeeded"),
        }[kind]
        error = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>"
        if request.service == "route53":
            error = error.replace("<Error>", "<Error><Type>Sender</Type>")
        if request.service == "ec2":
            told = f"<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>"
        else:
            told = f"<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>"
        return status, [("Content-Type", "text/xml")], told.encode()

    def is_trial(self, request: Request) -> bool:
        return request.words.get("DryRun") == "true"

    def allows(self, rights: Any, request: Request) -> bool:
        """Everything is denied but what a statement allows, on the resources that it names."""
        name = f"{request.service}:{request.action}"
        return any(
            name in statement["Action"] and _covers(statement["Resource"], request)
            for statement in rights["Statement"]
        )


def _of_dns(environ: Mapping[str, Any], body: bytes) -> dict[str, str]:
    """Route 53 alone speaks by paths and XML."""
    found = re.fullmatch(r"/2013-04-01/hostedzone/([^/]+)(/rrset/?)?", environ["PATH_INFO"])
    actions = {
        ("GET", False): "GetHostedZone",
        ("GET", True): "ListResourceRecordSets",
        ("POST", True): "ChangeResourceRecordSets",
    }
    action = found and actions.get((environ["REQUEST_METHOD"], bool(found[2])))
    if not found or not action:
        return {}
    return {"Action": action, "zone": found[1], "body": body.decode("utf-8", "replace")}


def _covers(resources: Any, request: Request) -> bool:
    """Each thing that the request names is covered by a resource of its kind."""
    if resources == "*":
        return True
    if request.service == "route53":
        return f"arn:aws:route53:::hostedzone/{request.words['zone']}" in resources
    kinds = {"rtb-": "route-table", "eni-": "network-interface", "eipalloc-": "elastic-ip", "i-": "instance"}
    named = [value for key, value in request.words.items() if key not in ("Action", "Version")]
    things = [f"{kind}/{value}" for value in named for mark, kind in kinds.items() if value.startswith(mark)]
    if request.service != "ec2":
        things = []  # a target may be any instance: the right is to the group
    if request.action in ("CreateRoute", "ReplaceRoute"):
        things = [thing for thing in things if thing.startswith("route-table")]
    arns = [value for value in named if value.startswith("arn:")]
    return all(
        any(fnmatch.fnmatch(f":{one}", f"*:{each.rpartition(':')[2]}") for each in resources)
        for one in things
    ) and all(one in resources for one in arns)


# --- the metadata service -------------------------------------------------------------------------------


class Metadata:
    """Version 2 for each node, at /imds/NODE; a test adds by PUT, removes by DELETE of /say/NODE/PATH."""

    def __init__(self, inner: Callable[..., Iterable[bytes]]) -> None:
        self._inner = inner
        self.nodes: dict[str, dict[str, str | Callable[[], str]]] = {}
        self.dead = False
        self.tokens = 0
        self.refuse_tokens = 0
        """So many answers are 401 although the token is right, as of one that ended."""

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if said := re.fullmatch(r"/say/([^/]+)/(.+)", environ["PATH_INFO"]):
            self._say(said[1], said[2], environ)
            start("200 OK", [("Content-Type", "text/plain")])
            return [b""]
        found = re.fullmatch(r"/imds/([^/]+)/latest/(.*)", environ["PATH_INFO"])
        if found is None:
            return self._inner(environ, start)
        status, told = self._answer(found[1], found[2], environ)
        start(status, [("Content-Type", "text/plain")])
        return [told.encode()]

    def _say(self, node: str, path: str, environ: Mapping[str, Any]) -> None:
        if environ["REQUEST_METHOD"] == "DELETE":
            self.nodes[node].pop(path, None)
        else:
            length = int(environ.get("CONTENT_LENGTH") or 0)
            self.nodes[node][path] = environ["wsgi.input"].read(length).decode()

    def _answer(self, node: str, path: str, environ: Mapping[str, Any]) -> tuple[str, str]:
        if self.dead:
            return "503 Service Unavailable", ""
        if path == "api/token":
            if (
                environ["REQUEST_METHOD"] != "PUT"
                or "HTTP_X_AWS_EC2_METADATA_TOKEN_TTL_SECONDS" not in environ
            ):
                return "400 Bad Request", ""
            self.tokens += 1
            return "200 OK", f"token-{node}"
        if environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN") != f"token-{node}":
            return "401 Unauthorized", ""
        if self.refuse_tokens:
            self.refuse_tokens -= 1
            return "401 Unauthorized", ""
        told = self.nodes.get(node, {}).get(path.removeprefix("meta-data/"))
        if told is None:
            return "404 Not Found", ""
        return "200 OK", told if isinstance(told, str) else told()


# --- the whole ------------------------------------------------------------------------------------------


class Quiet(WSGIRequestHandler):
    """Its log is that of the knobs."""

    def log(self, type: str, message: str, *args: Any) -> None:
        return


class Simulated:
    """A server on loopback, and what a test builds in it."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        mend()
        self.knobs = Knobs(DomainDispatcherApplication(create_backend_app), Aws())
        self.metadata = Metadata(self.knobs)
        self._server = make_server(host, port, self.metadata, threaded=True, request_handler=Quiet)
        self.url = f"http://{host}:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Simulated:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def client(self, service: str, who: str = "test", region: str = REGION) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=region,
            aws_access_key_id=who,
            aws_secret_access_key="secret",
        )

    def environment(self, node: str, metadata: bool = True) -> dict[str, str]:
        """What the SDK of a node's agent is told: its own variables, none of ours."""
        told = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": node,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        if metadata:
            told["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = f"{self.url}/imds/{node}"
        return told


class Vpc:
    """A VPC with a subnet for each range, and nodes in them."""

    def __init__(self, aws: Simulated, cidr: str, subnets: Mapping[str, str], tables: int = 1) -> None:
        self.aws = aws
        self.ec2 = aws.client("ec2")
        self.id = self.ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
        self.cidr = cidr
        self.subnets: dict[str, str] = {}
        self.ranges = dict(subnets)
        for number, (name, inside) in enumerate(subnets.items()):
            zone = ZONES[number % len(ZONES)]
            made = self.ec2.create_subnet(VpcId=self.id, CidrBlock=inside, AvailabilityZone=zone)
            self.subnets[name] = made["Subnet"]["SubnetId"]
        self.tables = [self.table() for _ in range(tables)]
        self.enis: dict[str, str] = {}
        self.instances: dict[str, str] = {}

    def table(self) -> str:
        return str(self.ec2.create_route_table(VpcId=self.id)["RouteTable"]["RouteTableId"])

    def node(self, name: str, subnet: str, address: str, checked: bool = False) -> str:
        """An instance with one network interface, and its metadata; the interface's name."""
        made = self.ec2.create_network_interface(SubnetId=self.subnets[subnet], PrivateIpAddress=address)
        eni = str(made["NetworkInterface"]["NetworkInterfaceId"])
        ran = self.ec2.run_instances(
            ImageId=IMAGE,
            MinCount=1,
            MaxCount=1,
            NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": eni}],
        )
        self.enis[name] = eni
        self.instances[name] = str(ran["Instances"][0]["InstanceId"])
        if not checked:
            self.ec2.modify_network_interface_attribute(
                NetworkInterfaceId=eni, SourceDestCheck={"Value": False}
            )
        mac = made["NetworkInterface"]["MacAddress"]
        of_mac = f"network/interfaces/macs/{mac}"
        self.aws.metadata.nodes[name] = {
            "mac": mac,
            "placement/region": REGION,
            f"{of_mac}/vpc-id": self.id,
            f"{of_mac}/subnet-id": self.subnets[subnet],
            f"{of_mac}/interface-id": eni,
            f"{of_mac}/subnet-ipv4-cidr-block": self.ranges[subnet],
            f"{of_mac}/local-ipv4s": lambda: "\n".join(_addresses(backend().get_network_interface(eni))),
        }
        return eni

    def led_to(self, address: str, table: str) -> str:
        """The node to which a table leads an address, an interface's name, or nothing."""
        found = self.ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Routes"]
        for route in found:
            if f"{address}/32" == route.get("DestinationCidrBlock"):
                eni = route.get("NetworkInterfaceId", "")
                return next((name for name, own in self.enis.items() if own == eni), eni)
        return ""


@contextmanager
def simulated() -> Iterator[Simulated]:
    """Empty at its beginning."""
    with Simulated() as aws:
        import urllib.request

        reset = urllib.request.Request(f"{aws.url}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset, timeout=10).read()
        yield aws
