"""Asks the network all the time who answers an address; two answers to one question are one too many.

    python -m tests.chaos.answers ADDRESS NAME=MAC...

Each question is put twice: by ARP to everybody, and by an ICMP echo in a frame of its own to each machine, so
that a machine is found too which keeps silent about the address and still takes what is sent to it.
A line for each change {"at", "owner"} and for each fault {"at", "double": [names], "how"}; ends with
standard input.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time

INTERFACE = "eth0"
INTERVAL_S = 0.02
"""A fifth of the margin between a lease's end and a successor's bid (100 ms at `lan`)."""
ASKERS = range(130, 250)
"""Last bytes of the addresses that ask by ARP: the answer goes back to the asker, and so names its question.
They belong to no machine. They return after 120 questions, when every answer has long come or is lost."""
EVERYBODY = b"\xff" * 6
ARP, IPV4 = 0x0806, 0x0800


class Questions:
    """Which machines answered each of the last questions."""

    def __init__(self, names: dict[bytes, str]) -> None:
        self._names = names
        self._answers: dict[tuple[str, int], set[str]] = {}
        self.owner = ""

    def ask(self, how: str, number: int) -> None:
        self._answers[how, number] = set()

    def hear(self, how: str, number: int, mac: bytes) -> None:
        name = self._names.get(mac, mac.hex(":"))
        found = self._answers.setdefault((how, number), set())
        if name in found:
            return
        found.add(name)
        if len(found) > 1:
            say(double=sorted(found), how=how)
        elif how == "arp" and name != self.owner:
            self.owner = name
            say(owner=name)


def say(**words: object) -> None:
    print(json.dumps({"at": time.monotonic(), **words}), flush=True)


def arp(mac: bytes, asker: bytes, address: bytes) -> bytes:
    head = EVERYBODY + mac + struct.pack("!H", ARP)
    return head + struct.pack("!HHBBH", 1, IPV4, 6, 4, 1) + mac + asker + bytes(6) + address


def echo(mac: bytes, target: bytes, source: bytes, address: bytes, number: int) -> bytes:
    icmp = struct.pack("!BBHHH", 8, 0, 0, ord("h"), number)
    icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), number, 0, 64, 1, 0) + source + address
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return target + mac + struct.pack("!H", IPV4) + ip + icmp


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def hear(frame: bytes, address: bytes, questions: Questions) -> None:
    """One frame from the wire; most are not ours."""
    mac, (kind,) = frame[6:12], struct.unpack("!H", frame[12:14])
    if kind == ARP and frame[20:22] == b"\0\2" and frame[28:32] == address and frame[41] in ASKERS:
        questions.hear("arp", frame[41], mac)
    elif kind == IPV4 and frame[23] == 1 and frame[26:30] == address and frame[34] == 0:
        questions.hear("ip", struct.unpack("!H", frame[40:42])[0], mac)


def main() -> None:
    """Ask until standard input ends."""
    address = socket.inet_aton(sys.argv[1])
    pairs = [word.split("=") for word in sys.argv[2:]]
    macs = {bytes.fromhex(mac.replace(":", "")): name for name, mac in pairs}
    questions = Questions(macs)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
    wire.bind((INTERFACE, 0))
    mine = wire.getsockname()[4]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((sys.argv[1], 9))
        source = socket.inet_aton(probe.getsockname()[0])
    number = 0
    due = time.monotonic()
    while True:
        readable, _, _ = select.select([wire, sys.stdin], [], [], max(0.0, due - time.monotonic()))
        if sys.stdin in readable:
            return
        if wire in readable:
            hear(wire.recv(2048), address, questions)
        if time.monotonic() >= due:
            due = time.monotonic() + INTERVAL_S
            number = (number + 1) % 65536
            last = ASKERS[number % len(ASKERS)]
            questions.ask("arp", last)
            wire.send(arp(mine, address[:3] + bytes([last]), address))
            questions.ask("ip", number)
            for mac in macs:
                wire.send(echo(mine, mac, source, address, number))


if __name__ == "__main__":
    main()
