"""A cloud's network as real namespaces: one router that does what the simulated cloud says."""

from __future__ import annotations

import ipaddress
import itertools
import os
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from tests.clouds.view import View
from tests.support.netns import ip

_COUNTER = itertools.count()
MAIN_TABLE: Final = 254
"""What the router itself sends, as a load balancer's probes, goes by the kernel's main table."""
FIRST_TABLE: Final = 100
"""Of the router's routing tables, one for each subnet from here on; the kernel's own are above 252."""


class Fabric:
    """From `with` to its end; a namespace for each machine of the first view, and one for the router.

    As in a cloud nothing that a machine says by ARP has any effect: the router answers for every address,
    and leads a packet by the table of the subnet that it comes from.
    """

    def __init__(self, view: View) -> None:
        self._mark = f"hf{os.getpid()}f{next(_COUNTER)}"
        self._view = view
        self._lock = threading.Lock()
        self._ports = {name: f"port{place}" for place, name in enumerate(view.machines)}
        self._tables = {subnet: FIRST_TABLE + place for place, subnet in enumerate(view.subnets)}
        self._installed: dict[tuple[int, str], str] = {}

    def __getitem__(self, machine: str) -> str:
        """The machine's namespace, or the router's."""
        place = "router" if machine == "router" else self._ports[machine]
        return f"{self._mark}{place}"

    def __enter__(self) -> Self:
        try:
            ip("netns", "add", self["router"])
            ip("link", "set", "lo", "up", within=self["router"])
            self._sysctl("net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
            for name in self._ports:
                self._plug(name)
            self.sync(self._view)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _plug(self, name: str) -> None:
        machine, port, inner = self._view.machines[name], self._ports[name], self[name]
        within = ipaddress.ip_network(self._view.subnets[machine.subnet])
        gateway = str(within[1])
        ip("netns", "add", inner)
        pair = ("eth0", "netns", inner, "type", "veth", "peer", "name", port)
        ip("link", "add", *pair, within=self["router"])
        ip("addr", "add", f"{gateway}/32", "dev", port, within=self["router"])
        ip("link", "set", port, "up", within=self["router"])
        ip("link", "set", "lo", "up", within=inner)
        ip("addr", "add", f"{machine.addresses[0]}/{within.prefixlen}", "dev", "eth0", within=inner)
        ip("link", "set", "eth0", "up", within=inner)
        ip("route", "add", "default", "via", gateway, within=inner)
        table = str(self._tables[machine.subnet])
        ip("rule", "add", "iif", port, "lookup", table, within=self["router"])
        # The router answers for all neighbours, at once.
        conf = (f"net.ipv4.conf.{port}.proxy_arp=1", f"net.ipv4.conf.{port}.rp_filter=0")
        self._sysctl(*conf, f"net.ipv4.neigh.{port}.proxy_delay=0")

    def _sysctl(self, *words: str) -> None:
        net = f"--net=/var/run/netns/{self['router']}"
        subprocess.run(["nsenter", net, "sysctl", "-qw", *words], check=True, timeout=20)

    def sync(self, view: View) -> None:
        """What the view says is so when this returns; a route that stays is not touched."""
        with self._lock:
            wanted = self._wanted(view)
            lines = [
                f"route replace {way.replace('@', prefix)} table {table}"
                for (table, prefix), way in wanted.items()
                if self._installed.get((table, prefix)) != way
            ]
            lines += [
                f"route del {way.replace('@', prefix)} table {table}"
                for (table, prefix), way in self._installed.items()
                if (table, prefix) not in wanted
            ]
            self._batch(lines)
            self._installed = wanted

    def follow(self, view: Callable[[], View]) -> Callable[[], None]:
        """What a simulator calls when something changed."""
        return lambda: self.sync(view())

    def _wanted(self, view: View) -> dict[tuple[int, str], str]:
        """Table and prefix, and the way there; `@` is where the prefix stands."""
        wanted: dict[tuple[int, str], str] = {}
        for subnet, table in self._tables.items():
            for route in view.routes.get(subnet, ()):
                wanted[table, route.prefix] = self._way(view, route.to)
            for address, name in view.balanced.items():
                wanted[table, f"{address}/32"] = self._way(view, name)
            for machine in view.machines.values():
                for address in machine.addresses:
                    to = machine.name if machine.runs else None
                    wanted[table, f"{address}/32"] = self._way(view, to)
        for machine in view.machines.values():
            to = machine.name if machine.runs else None
            wanted[MAIN_TABLE, f"{machine.addresses[0]}/32"] = self._way(view, to)
        return wanted

    def _way(self, view: View, name: str | None) -> str:
        if name is None or name not in self._ports:
            return "blackhole @"
        return f"@ via {view.machines[name].addresses[0]} dev {self._ports[name]} onlink"

    def _batch(self, lines: list[str]) -> None:
        if not lines:
            return
        words = ["nsenter", f"--net=/var/run/netns/{self['router']}", "ip", "-batch", "-"]
        text = "\n".join(lines) + "\n"
        done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{text}{done.stderr}"

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in (*self._ports, "router"):
            with suppress(AssertionError):
                ip("netns", "del", self[name])
