"""A UDP probe each 2 ms through a virtual IP: how long were there no good replies?

probe.py serve PORT                      answers each datagram with itself and this node's name
probe.py watch ADDRESS PORT              one JSON line per second until standard input ends, then the gaps
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

PERIOD_S = 0.002
GAP_MIN_S = 0.05
"""Shorter silences are the machine's own: a stall of a shared core, not an outage."""


def serve(port: int) -> None:
    """Answer on every address of either family."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("::", port))
    name = socket.gethostname().encode()
    while True:
        data, client = server.recvfrom(2048)
        try:
            server.sendto(data + b" " + name, client)
        except OSError:
            continue  # the address went away between the question and the answer


def watch(address: str, port: int) -> None:
    """Probe until standard input ends; print every gap with its beginning and end on CLOCK_MONOTONIC."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.setblocking(False)
    gaps: list[list[float]] = []
    sent = good = stalls = 0
    last_good = before = time.monotonic()
    due = before
    print(json.dumps({"ready": True}), flush=True)
    while True:
        wait = max(0.0, due - time.monotonic())
        readable, _, _ = select.select([client, sys.stdin], [], [], wait)
        now = time.monotonic()
        if now - before > GAP_MIN_S:
            stalls += 1  # we did not run: what looks like a gap is ours
        before = now
        if sys.stdin in readable:
            break
        if client in readable:
            try:
                while True:
                    client.recv(2048)
                    good += 1
                    if now - last_good > GAP_MIN_S:
                        gaps.append([last_good, now])
                    last_good = now
            except (BlockingIOError, ConnectionError):
                pass
        if now >= due:
            due = now + PERIOD_S
            try:
                client.sendto(f"{sent}".encode(), (address, port))
                sent += 1
            except OSError:
                pass  # no route or no neighbour yet: that is what is being measured
    if time.monotonic() - last_good > GAP_MIN_S:
        gaps.append([last_good, time.monotonic()])
    print(json.dumps({"sent": sent, "good": good, "gaps": gaps, "stalls": stalls}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        watch(sys.argv[2], int(sys.argv[3]))
