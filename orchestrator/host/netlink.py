"""Links, addresses and preferred sources of this kernel, through netlink."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import os
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any, ClassVar, cast

from orchestrator.model.errors import AddressRefused, HafarmError, ProcessUnreachable

Interface = IPv4Interface | IPv6Interface

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
IFA_F_NODAD = 0x02
FOREVER = 0xFFFFFFFF
MAIN_TABLE = 254
DUMPS_MAX = 10
"""A list takes a millisecond to read; ten changes in a row mean that something flaps all the time."""
ANSWER_S = 5
"""The kernel answers a change before the send returns; what is longer is no answer."""
ERROR = struct.Struct("=IHHIIi")
"""nlmsghdr and the error of NLMSG_ERROR (linux/netlink.h): 0, or an errno below it."""
CHANGE_GROUPS = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR."""


@dataclass(eq=False)
class LinkRefused(HafarmError):
    """An interface of ours could not be made or changed."""

    code: ClassVar[str] = "HF6106"
    interface: str
    why: str

    def __str__(self) -> str:
        return f"interface {self.interface}: the kernel refuses: {self.why}"


@dataclass(frozen=True, slots=True)
class Link:
    """One network interface."""

    index: int
    name: str
    mac: bytes
    up: bool
    carrier: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """An address on an interface."""

    index: int
    address: Interface


@dataclass(frozen=True, slots=True)
class Route:
    """What is needed to write a route again with another preferred source."""

    family: int
    destination: str
    """Empty: the default route."""
    index: int
    priority: int | None
    gateway: str | None
    scope: int
    protocol: int
    source: str | None


class Netlink:
    """One conversation with the kernel; what it refuses is AddressRefused."""

    def __init__(self) -> None:
        # Late: pyroute2 takes time and memory that a node without addresses does not need.
        _open_library()
        from pyroute2.iproute.linux import AsyncIPRoute

        kernel: Any = AsyncIPRoute
        self._kernel = kernel()
        self._changer = _changer()
        self._ready: dict[tuple[Placed, bool], bytes] = {}
        # A socket carries one dump at a time: the kernel answers EBUSY to a second one.
        self._dumping = asyncio.Lock()

    async def open(self) -> None:
        await self._kernel.setup_endpoint()

    def close(self) -> None:
        self._kernel.close()
        self._changer.close()

    async def links(self) -> dict[str, Link]:
        """All interfaces by name."""
        found = {}
        for message in await self._dump("link"):
            name, flags = str(message.get_attr("IFLA_IFNAME")), int(message["flags"])
            mac = bytes.fromhex(str(message.get_attr("IFLA_ADDRESS") or "").replace(":", ""))
            up = bool(flags & IFF_UP)
            found[name] = Link(int(message["index"]), name, mac, up, up and bool(flags & IFF_LOWER_UP))
        return found

    async def addresses(self) -> list[Placed]:
        """All addresses; IFA_LOCAL first, because on a point-to-point link IFA_ADDRESS is the other end."""
        found = []
        for message in await self._dump("addr"):
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text:
                found.append(Placed(int(message["index"]), ip_interface(f"{text}/{message['prefixlen']}")))
        return found

    async def _dump(self, what: str, **choice: int) -> list[Any]:
        """A whole list: one that changed while it was read is read again, DUMPS_MAX times."""
        from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

        for _ in range(DUMPS_MAX):
            try:
                async with self._dumping:
                    return [message async for message in await getattr(self._kernel, what)("dump", **choice)]
            except NetlinkDumpInterrupted:
                continue
            except NetlinkError as fault:
                raise ProcessUnreachable(f"the kernel's list of {what}", str(fault)) from fault
        raise ProcessUnreachable(
            f"the kernel's list of {what}", f"it changed {DUMPS_MAX} times while it was read"
        )

    def get_ready(self, place: Placed, preferred: bool) -> None:
        """Encode what `add` will send: that takes longer than all else in a claim."""
        if (place, preferred) not in self._ready:
            self._ready[place, preferred] = _encoded("RTM_NEWADDR", place, preferred)

    def add(self, place: Placed, preferred: bool) -> None:
        """Put an address on an interface; one that is there already is fine."""
        self.get_ready(place, preferred)
        self._change(self._ready[place, preferred], place, ())

    def remove(self, place: Placed) -> None:
        """Take an address away; one that is gone already is fine."""
        self._change(_encoded("RTM_DELADDR", place, True), place, (errno.EADDRNOTAVAIL, errno.ENODEV))

    def _change(self, message: bytes, place: Placed, fine: tuple[int, ...]) -> None:
        try:
            self._changer.send(message)
            *_, error = ERROR.unpack_from(self._changer.recv(4096))
        except OSError as fault:
            # A late answer would be taken for the next one's.
            self._changer.close()
            self._changer = _changer()
            raise AddressRefused(str(place.address), f"the kernel gives no answer: {fault}") from fault
        if error and -error not in fine:
            raise AddressRefused(str(place.address), f"the kernel refuses: {os.strerror(-error)}")

    async def add_macvlan(self, name: str, below: Link, mac: str) -> None:
        """An interface with a hardware address of its own on another one; not up yet."""
        await self._change_link(
            "add", ifname=name, kind="macvlan", link=below.index, macvlan_mode="private", address=mac
        )

    async def set_up(self, link: Link) -> None:
        await self._change_link("set", index=link.index, state="up")

    async def remove_link(self, link: Link) -> None:
        """One that is gone already is fine."""
        await self._change_link("del", index=link.index)

    async def _change_link(self, verb: str, **words: Any) -> None:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            await self._kernel.link(verb, **words)
        except NetlinkError as fault:
            if verb != "del" or fault.code != errno.ENODEV:
                what = words.get("ifname") or f"number {words.get('index')}"
                raise LinkRefused(str(what), str(fault)) from fault

    async def routes(self, index: int, version: int) -> list[Route]:
        """The main table's routes through one interface."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        found = []
        for message in await self._dump("route", family=family):
            table = message.get_attr("RTA_TABLE") or message["table"]
            if table == MAIN_TABLE and message.get_attr("RTA_OIF") == index:
                found.append(_route(message, index))
        return found

    async def write_route(self, route: Route) -> None:
        """Write the route, in the place of one with the same destination and priority."""
        from pyroute2.netlink.exceptions import NetlinkError

        optional = {"priority": route.priority, "gateway": route.gateway, "prefsrc": route.source}
        try:
            await self._kernel.route(
                "replace",
                family=route.family,
                dst=route.destination or "default",
                oif=route.index,
                scope=route.scope,
                proto=route.protocol,
                **{name: value for name, value in optional.items() if value is not None},
            )
        except NetlinkError as fault:
            where = route.destination or "default"
            raise AddressRefused(str(route.source), f"no source for the route {where}: {fault}") from fault


def _open_library() -> None:
    """Let parts of pyroute2 be imported without its front page.

    That one imports every other part, a data base among them: 5 MiB and 70 modules, in an agent that speaks
    to the kernel of links, addresses and routes alone.
    """
    if "pyroute2" not in sys.modules:
        spec = importlib.util.find_spec("pyroute2")
        assert spec is not None, "it is pinned with the product"
        sys.modules["pyroute2"] = importlib.util.module_from_spec(spec)


def _changer() -> socket.socket:
    """A conversation of changes, one after the other, each with its answer."""
    changer = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    changer.settimeout(ANSWER_S)
    changer.bind((0, 0))
    return changer


def _encoded(what: str, place: Placed, preferred: bool) -> bytes:
    """A request about one address, in rtnetlink's words (rtnetlink(7))."""
    from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, rtnl
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

    address, version = str(place.address.ip), place.address.version
    message: Any = cast(Any, ifaddrmsg)()
    message["family"] = socket.AF_INET if version == 4 else socket.AF_INET6
    message["prefixlen"], message["index"] = place.address.network.prefixlen, place.index
    message["attrs"] = [("IFA_ADDRESS", address)]
    flags = NLM_F_REQUEST | NLM_F_ACK
    if version == 4:
        message["attrs"].append(("IFA_LOCAL", address))
    if what == "RTM_NEWADDR":
        flags |= NLM_F_CREATE | NLM_F_REPLACE
        if version == 6:
            # No duplicate address detection: it takes a second, and the lease guards. Deprecated unless it
            # is to be a source, else the kernel may choose it for new outgoing connections.
            message["attrs"].append(("IFA_FLAGS", IFA_F_NODAD))
            lifetimes = {"ifa_preferred": FOREVER if preferred else 0, "ifa_valid": FOREVER}
            message["attrs"].append(("IFA_CACHEINFO", lifetimes))
    message["header"] = {"type": getattr(rtnl, what), "flags": flags, "sequence_number": 1, "pid": 0}
    message.encode()
    return bytes(message.data)


def _route(message: Any, index: int) -> Route:
    destination = message.get_attr("RTA_DST")
    return Route(
        family=int(message["family"]),
        destination=f"{destination}/{message['dst_len']}" if destination else "",
        index=index,
        priority=message.get_attr("RTA_PRIORITY"),
        gateway=message.get_attr("RTA_GATEWAY"),
        scope=int(message["scope"]),
        protocol=int(message["proto"]),
        source=message.get_attr("RTA_PREFSRC"),
    )


class Changes:
    """Tells that some link or address changed; what changed is asked, so that no lost message matters."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, CHANGE_GROUPS))
        asyncio.get_running_loop().add_reader(self._socket, self.hear)

    def hear(self) -> None:
        """Take in what the kernel has said by now; also called by the loop when it says something."""
        heard = False
        try:
            while self._socket.recv(65536):
                heard = True
        except BlockingIOError:
            pass
        except OSError:
            heard = True  # ENOBUFS: messages were lost, which is a change as well.
        if heard:
            self._on_change()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
