"""Clients of an address, as a process in their network: many sources, bytes that are moved and compared.

clients.py ask ADDRESS TCP_PORT UDP_PORT    who answers whom, once: sources on standard input
clients.py move ADDRESS PORT COUNT PACE_S   COUNT connections say something each PACE_S; ends with its input
clients.py begin ADDRESS PORT PERIOD_S      a new connection each PERIOD_S from another source; the same
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import selectors
import socket
import sys
import time
from ipaddress import ip_address
from typing import Any

IPV6_FREEBIND = 78
IP_FREEBIND = 15
ANSWER_S = 5.0
"""Longer than a kernel takes to send a SYN again twice."""
AGAIN_S = 1.5
"""After it a datagram was lost, as the kernel of a busy machine loses some: a client of UDP asks again."""
PIECE_BYTES = 200
SOURCE4, SOURCE6 = ip_address("198.18.64.0"), ip_address("2001:2:0:1::")
"""The networks of the clients; the rig routes them here."""


def source(version: int, number: int) -> str:
    return str((SOURCE4 if version == 4 else SOURCE6) + 1 + number)


def bound(address: str, kind: int, local: str, port: int, protocol: int = 0) -> socket.socket:
    """A socket with a source of its choice, which no interface needs to have."""
    v6 = ":" in address
    found = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, kind, protocol)
    level, option = (socket.IPPROTO_IPV6, IPV6_FREEBIND) if v6 else (socket.IPPROTO_IP, IP_FREEBIND)
    found.setsockopt(level, option, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((local, port))
    return found


def ask_udp(address: str, port: int, asked: list[tuple[str, int]], size: int) -> list[str]:
    """Who answered each of these; nothing where nobody did, several names where several did."""
    found: list[list[str]] = [[] for _ in asked]
    waiting: dict[int, tuple[int, socket.socket]] = {}
    poll = select.epoll()
    for number, (local, from_port) in enumerate(asked):
        one = bound(address, socket.SOCK_DGRAM, local, from_port)
        one.setblocking(False)
        waiting[one.fileno()] = number, one
        poll.register(one, select.EPOLLIN)
        one.sendto(b"%d " % number + b"x" * size, (address, port))
    again_at, quiet_at = time.monotonic() + AGAIN_S, time.monotonic() + ANSWER_S
    while (now := time.monotonic()) < quiet_at:
        if now > again_at:
            again_at = now + AGAIN_S
            for number, one in waiting.values():
                if not found[number]:
                    one.sendto(b"%d " % number + b"x" * size, (address, port))
        for descriptor, _ in poll.poll(0.3):
            number, one = waiting[descriptor]
            node, told, *_ = one.recv(1 << 16).split(b" ", 2)
            assert int(told) == number, "an answer to somebody else's question"
            found[number].append(node.decode())
        if all(found):
            # A moment more for a second answer, which nobody is to get.
            quiet_at = min(quiet_at, time.monotonic() + 0.3)
    # Who was asked twice may answer twice; two nodes may not.
    return [",".join(sorted(set(names))) for names in found]


def ask_tcp(address: str, port: int, asked: list[tuple[str, int]], size: int) -> list[str]:
    """The node that greets each connection and gives back what it is sent, or the name of what went wrong."""
    found = []
    for local, from_port in asked:
        one = bound(address, socket.SOCK_STREAM, local, from_port)
        one.settimeout(ANSWER_S)
        try:
            one.connect((address, port))
            node = one.recv(100).decode().strip()
            if size:
                one.sendall(b"x" * size)
                one.recv(size, socket.MSG_WAITALL)
            found.append(node)
        except OSError as fault:
            found.append(str(fault))
        one.close()
    return found


class Mover:
    """A connection that says something, waits for it to come back, compares, and says the next."""

    def __init__(self, address: str, port: int, number: int) -> None:
        self.local = source(6 if ":" in address else 4, number % 200), 20000 + number
        self.socket = bound(address, socket.SOCK_STREAM, *self.local)
        self.socket.settimeout(ANSWER_S)
        self.socket.connect((address, port))
        self.node = self.socket.recv(100).decode().strip()
        self.socket.setblocking(False)
        # Who only waits for what a dead node owed sends nothing, and so hears of nothing.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
            self.socket.setsockopt(socket.IPPROTO_TCP, option, 1)
        self.said, self.heard, self.turns, self.due = b"", b"", 0, 0.0
        self.broken = ""

    def say(self, now: float) -> None:
        if self.broken:
            return
        self.due, self.said, self.heard = now, os.urandom(PIECE_BYTES), b""
        try:
            self.socket.send(self.said)
        except OSError as fault:
            self.broken = type(fault).__name__

    def hear(self) -> bool:
        """Whether all that was said came back."""
        try:
            piece = self.socket.recv(1 << 16)
        except OSError as fault:
            self.broken = type(fault).__name__
            return False
        self.heard += piece
        if not piece or not self.said.startswith(self.heard):
            self.broken = self.broken or ("other bytes" if piece else "ended")
            return False
        self.turns += self.heard == self.said
        return self.heard == self.said


def move(address: str, port: int, count: int, pace_s: float) -> None:
    movers = [Mover(address, port, number) for number in range(count)]
    selector = selectors.DefaultSelector()
    for mover in movers:
        selector.register(mover.socket, selectors.EVENT_READ, mover)
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    print(json.dumps([mover.node for mover in movers]), flush=True)
    now = time.monotonic()
    due: list[tuple[float, int]] = [(now + pace_s * number / count, number) for number in range(count)]
    numbers = {id(mover): number for number, mover in enumerate(movers)}
    while True:
        now = time.monotonic()
        while due and due[0][0] <= now:
            movers[due.pop(0)[1]].say(now)
        for key, _ in selector.select(max(0.0, due[0][0] - now) if due else 0.05):
            if key.data is None:
                if _told(movers) is None:
                    return
            elif key.data.hear():
                due.append((now + pace_s, numbers[id(key.data)]))
            elif key.data.broken:
                selector.unregister(key.data.socket)


def _told(movers: list[Mover]) -> bool | None:
    """A line on standard input asks for a report; its end ends everything."""
    if not sys.stdin.readline():
        return None
    now = time.monotonic()
    report: dict[str, Any] = {
        "turns": [mover.turns for mover in movers],
        "broken": {mover.local[1]: mover.broken for mover in movers if mover.broken},
        # Said and not come back for longer than a packet is sent again.
        "stuck": [m.local[1] for m in movers if not m.broken and m.heard != m.said and now - m.due > 1],
    }
    print(json.dumps(report), flush=True)
    return True


async def begin(address: str, port: int, period_s: float) -> None:
    """Tells of each when it began (CLOCK_MONOTONIC), how long until it was greeted, and by whom."""
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    tasks: list[asyncio.Task[tuple[float, float, str]]] = []
    while not over.done():
        tasks.append(asyncio.create_task(_greeted(address, port, len(tasks))))
        await asyncio.sleep(period_s)
    print(json.dumps(await asyncio.gather(*tasks)), flush=True)


async def _greeted(address: str, port: int, number: int) -> tuple[float, float, str]:
    loop, began = asyncio.get_running_loop(), time.monotonic()
    node = ""
    with bound(address, socket.SOCK_STREAM, source(6 if ":" in address else 4, number % 4000), 0) as one:
        one.setblocking(False)
        try:
            async with asyncio.timeout(ANSWER_S):
                await loop.sock_connect(one, (address, port))
                node = (await loop.sock_recv(one, 100)).decode().strip()
        except OSError:
            pass  # no name says it: refused, reset or too late
    return began, time.monotonic() - began, node


def main() -> None:
    what, address, *words = sys.argv[1:]
    if what == "begin":
        asyncio.run(begin(address, int(words[0]), float(words[1])))
        return
    if what == "move":
        move(address, int(words[0]), int(words[1]), float(words[2]))
        return
    kind, port, size = words[0], int(words[1]), int(words[2])
    asked = [(str(local), int(from_port)) for local, from_port in json.load(sys.stdin)]
    found = ask_udp(address, port, asked, size) if kind == "udp" else ask_tcp(address, port, asked, size)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
