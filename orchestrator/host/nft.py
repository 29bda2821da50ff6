"""Packet rules through libnftables, or the nft command where it is absent; and the dead-man lease."""

from __future__ import annotations

import ctypes
import ipaddress
import math
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from orchestrator.model.errors import HafarmError

TABLE: Final = "hafarm_lease"
COMMAND_TIMEOUT_S: Final = 5  # measured in milliseconds; a machine that needs more has other troubles


@dataclass(eq=False)
class RulesRefused(HafarmError):
    """The kernel did not take our packet rules."""

    code: ClassVar[str] = "HF3010"
    why: str

    def __str__(self) -> str:
        return f"nftables refused: {self.why}; the kernel needs nf_tables with the inet and arp families"


class Nft(Protocol):
    """Whatever runs a transaction of nft's language."""

    def run(self, commands: str) -> str: ...


class Library:
    """libnftables.so.1: a transaction in a millisecond, no process started."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libnftables.so.1")
        self._lib.nft_ctx_new.restype = ctypes.c_void_p
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(self._lib, name).restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._lib.nft_ctx_new(0))
        self._lib.nft_ctx_buffer_output(self._context)
        self._lib.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """All or nothing; what a `list` prints."""
        failed = self._lib.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._lib.nft_ctx_get_output_buffer(self._context)
        error: bytes = self._lib.nft_ctx_get_error_buffer(self._context)
        if failed:
            raise RulesRefused(error.decode(errors="replace").strip())
        return output.decode(errors="replace")


class Command:
    """The nft program, where the library is not installed."""

    def run(self, commands: str) -> str:
        try:
            done = subprocess.run(
                ["nft", "-f", "-"],
                input=commands.encode(),
                capture_output=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as fault:
            raise RulesRefused(str(fault)) from fault
        if done.returncode:
            raise RulesRefused(done.stderr.decode(errors="replace").strip())
        return done.stdout.decode(errors="replace")


def open_nft() -> Nft:
    try:
        return Library()
    except OSError:
        return Command()


class DeadMan:
    """Addresses that this machine answers only while somebody renews them; absent means silent."""

    def __init__(self, nft: Nft, addresses: Iterable[str]) -> None:
        self._nft = nft
        self._guarded: dict[str, int] = {}
        self._held: set[str] = set()
        # In one transaction: an address that a dead pulse left behind answers in no moment between two.
        nft.run("\n".join([_BASE, *self._newly_guarded(addresses)]))

    def guard(self, addresses: Iterable[str]) -> None:
        """From here on these are silent unless held; known ones keep their state."""
        if commands := self._newly_guarded(addresses):
            self._nft.run("\n".join(commands))

    def _newly_guarded(self, addresses: Iterable[str]) -> list[str]:
        commands = []
        for address in addresses:
            if address not in self._guarded:
                self._guarded[address] = len(self._guarded)
                commands += _guard_commands(address, self._guarded[address])
        return commands

    def renew(self, wall: float, remaining: Mapping[str, float]) -> None:
        """Hold each of these for so many seconds, and silence the others, in one transaction.

        `wall` was read together with the clock that `remaining` was computed from. The second net compares
        the wall clock per packet: an element that a stopped process adds too late answers for a second at
        the most.
        """
        assert set(remaining) <= set(self._guarded)
        lasting = {address: left for address, left in remaining.items() if left >= 0.001}
        commands = [f"flush chain inet {TABLE} late", f"flush chain arp {TABLE} late"]
        for address in sorted(self._held - set(lasting)):
            commands += _silence_commands(address, self._guarded[address])
        for address, left in lasting.items():
            commands += _hold_commands(address, self._guarded[address], left, math.ceil(wall + left))
        if lasting or self._held:
            self._nft.run("\n".join(commands))
        self._held = set(lasting)

    def remove(self) -> bool:
        """Take the rules away, unless an address may still be on this machine."""
        if self._held:
            return False
        self._nft.run(f"delete table inet {TABLE}\ndelete table arp {TABLE}")
        return True


def is_silenced(nft: Nft, address: str) -> bool:
    """Whether the dead-man lease, whoever keeps it, lets this machine answer for the address no more."""
    version = ipaddress.ip_address(address).version
    if not _has_element(nft, f"guarded{version}", address):
        return False
    return not _has_element(nft, f"held{version}", address)


def _has_element(nft: Nft, name: str, address: str) -> bool:
    try:
        nft.run(f"get element inet {TABLE} {name} {{ {address} }}")
    except RulesRefused:
        return False
    return True


# Declared, deleted, declared anew: what an earlier life held is silent at once.
_BASE: Final = f"""
add table inet {TABLE}
delete table inet {TABLE}
add table inet {TABLE}
add set inet {TABLE} guarded4 {{ type ipv4_addr; }}
add set inet {TABLE} held4 {{ type ipv4_addr; flags timeout; }}
add set inet {TABLE} guarded6 {{ type ipv6_addr; }}
add set inet {TABLE} held6 {{ type ipv6_addr; flags timeout; }}
add chain inet {TABLE} late
add chain inet {TABLE} in {{ type filter hook prerouting priority -350; policy accept; }}
add rule inet {TABLE} in ip daddr @guarded4 ip daddr != @held4 drop
add rule inet {TABLE} in ip6 daddr @guarded6 ip6 daddr != @held6 drop
add rule inet {TABLE} in jump late
add table arp {TABLE}
delete table arp {TABLE}
add table arp {TABLE}
add set arp {TABLE} guarded {{ type ipv4_addr; }}
add set arp {TABLE} held {{ type ipv4_addr; flags timeout; }}
add chain arp {TABLE} late
add chain arp {TABLE} in {{ type filter hook input priority 0; policy accept; }}
add rule arp {TABLE} in arp daddr ip @guarded arp daddr ip != @held drop
add rule arp {TABLE} in jump late
"""


def _guard_commands(address: str, number: int) -> list[str]:
    if ipaddress.ip_address(address).version == 4:
        return [
            f"add element inet {TABLE} guarded4 {{ {address} }}",
            f"add element arp {TABLE} guarded {{ {address} }}",
        ]
    # A neighbour solicitation goes to a group; its target is in the payload, where this nft compares numbers
    # but no sets of addresses. So each address has a set of its own, of one element.
    return [
        f"add element inet {TABLE} guarded6 {{ {address} }}",
        f"add set inet {TABLE} asked{number} {{ type icmpv6_type; flags timeout; }}",
        f"add rule inet {TABLE} in {_solicits(address)} icmpv6 type != @asked{number} drop",
    ]


def _solicits(address: str) -> str:
    return f"icmpv6 type nd-neighbor-solicit @th,64,128 {int(ipaddress.IPv6Address(address)):#034x}"


def _elements(address: str, number: int) -> list[tuple[str, str]]:
    """The sets that hold an address, and the element in each."""
    if ipaddress.ip_address(address).version == 4:
        return [(f"inet {TABLE} held4", address), (f"arp {TABLE} held", address)]
    return [(f"inet {TABLE} held6", address), (f"inet {TABLE} asked{number}", "nd-neighbor-solicit")]


def _silence_commands(address: str, number: int) -> list[str]:
    # Added first: deleting an element that has just timed out would fail the whole transaction.
    return [
        f"{verb} element {where} {{ {element} }}"
        for where, element in _elements(address, number)
        for verb in ("add", "delete")
    ]


def _hold_commands(address: str, number: int, left: float, until: int) -> list[str]:
    # Deleted and added, because adding alone does not move the time-out of an element that is there.
    hold = [
        f"add element {where} {{ {element} timeout {int(left * 1000)}ms }}"
        for where, element in _elements(address, number)
    ]
    if ipaddress.ip_address(address).version == 4:
        late = [
            f"add rule inet {TABLE} late ip daddr {address} meta time >= {until} drop",
            f"add rule arp {TABLE} late arp daddr ip {address} meta time >= {until} drop",
        ]
    else:
        late = [
            f"add rule inet {TABLE} late ip6 daddr {address} meta time >= {until} drop",
            f"add rule inet {TABLE} late {_solicits(address)} meta time >= {until} drop",
        ]
    return [*_silence_commands(address, number), *hold, *late]
