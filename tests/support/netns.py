"""Networks of a test's own: namespaces on one switch, gone when the test is over."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_COUNTER = itertools.count()


def ip(*words: str, within: str | None = None) -> str:
    """Run `ip`, inside a namespace where one is named; its output."""
    enter = ["nsenter", f"--net=/var/run/netns/{within}"] if within else []
    done = subprocess.run([*enter, "ip", *words], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """What this thread opens meanwhile belongs to the namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
    try:
        _enter(there)
        yield
    finally:
        _enter(home)
        os.close(there)
        os.close(home)


def _enter(descriptor: int) -> None:
    assert _LIBC.setns(descriptor, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


class Switch:
    """A switch and the machines plugged into it; a name and addresses for each machine."""

    def __init__(self, **machines: tuple[str, ...]) -> None:
        self._mark = f"hf{os.getpid()}x{next(_COUNTER)}"
        self._machines = machines

    def __getitem__(self, machine: str) -> str:
        """The machine's namespace."""
        return f"{self._mark}{machine}"

    def __enter__(self) -> Switch:
        try:
            ip("netns", "add", self["switch"])
            ip("link", "add", "br0", "type", "bridge", within=self["switch"])
            ip("link", "set", "br0", "up", within=self["switch"])
            for machine, addresses in self._machines.items():
                self._plug(machine, addresses)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _plug(self, machine: str, addresses: tuple[str, ...]) -> None:
        inner = self[machine]
        ip("netns", "add", inner)
        pair = ("eth0", "netns", inner, "type", "veth", "peer", "name", machine)
        ip("link", "add", *pair, within=self["switch"])
        ip("link", "set", "dev", machine, "master", "br0", "up", within=self["switch"])
        ip("link", "set", "lo", "up", within=inner)
        ip("link", "set", "eth0", "up", within=inner)
        for address in addresses:
            ip("addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []), within=inner)

    def unplug(self, machine: str) -> None:
        ip("link", "set", "dev", machine, "down", within=self["switch"])

    def plug(self, machine: str) -> None:
        ip("link", "set", "dev", machine, "up", within=self["switch"])

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for machine in (*self._machines, "switch"):
            with suppress(AssertionError):
                ip("netns", "del", self[machine])
