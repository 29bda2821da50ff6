"""The dead-man lease: set up in nft's language, through libnftables or nft; renewed in the kernel's own."""

from __future__ import annotations

import ctypes
import ipaddress
import itertools
import math
import subprocess
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from orchestrator.host.nfnetlink import Nfnetlink, NotThere, RulesRefused
from orchestrator.host.nft_lease import FLUSH_LATE, LATE, TABLE, Holding, Orders, is_in

COMMAND_TIMEOUT_S: Final = 5  # measured in milliseconds; a machine that needs more has other troubles
ABOUT_MAX: Final = 160
"""Letters of a refused command that are told: a map may have a thousand elements."""
SHORTEST_S: Final = 0.01
"""One tick of the slowest kernel: before Linux 6.12 an element whose time-out is shorter never leaves."""


class Nft(Protocol):
    """Whatever runs a transaction of nft's language."""

    def run(self, commands: str) -> str: ...


class Library:
    """libnftables.so.1: a transaction in a millisecond, no process started."""

    def __init__(self, *, dry: bool = False) -> None:
        """`dry`: the kernel judges a transaction and drops it."""
        self._lib = ctypes.CDLL("libnftables.so.1")
        self._lib.nft_ctx_new.restype = ctypes.c_void_p
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(self._lib, name).restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._lib.nft_ctx_new(0))
        self._lib.nft_ctx_buffer_output(self._context)
        self._lib.nft_ctx_buffer_error(self._context)
        self._lib.nft_ctx_set_dry_run(self._context, dry)

    def run(self, commands: str) -> str:
        """All or nothing; what a `list` prints."""
        failed = self._lib.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._lib.nft_ctx_get_output_buffer(self._context)
        error: bytes = self._lib.nft_ctx_get_error_buffer(self._context)
        if failed:
            raise RulesRefused(_first(error.decode(errors="replace")))
        return output.decode(errors="replace")


class Command:
    """The nft program, where the library is not installed."""

    def __init__(self, *, dry: bool = False) -> None:
        self._words = ["nft", *(["-c"] if dry else []), "-f", "-"]

    def run(self, commands: str) -> str:
        try:
            done = subprocess.run(
                self._words,
                input=commands.encode(),
                capture_output=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except (FileNotFoundError, PermissionError) as fault:
            raise RulesRefused("neither libnftables.so.1 nor the program nft is here") from fault
        except (OSError, subprocess.TimeoutExpired) as fault:
            raise RulesRefused(str(fault)) from fault
        if done.returncode:
            raise RulesRefused(_first(done.stderr.decode(errors="replace")))
        return done.stdout.decode(errors="replace")


def _first(told: str) -> str:
    """Of all complaints about a transaction the first, and what it is about."""
    lines = told.strip().splitlines()
    for number, line in enumerate(lines):
        if "Error: " in line:
            about = lines[number + 1].strip()[:ABOUT_MAX] if number + 1 < len(lines) else ""
            return line.partition("Error: ")[2] + (f", in `{about}`" if about else "")
    return told.strip()


def open_nft(*, dry: bool = False) -> Nft:
    """Whichever of the two is installed."""
    try:
        return Library(dry=dry)
    except OSError:
        return Command(dry=dry)


class DeadMan:
    """Addresses that this machine answers only while somebody renews them; absent means silent."""

    def __init__(self, nft: Nft, addresses: Iterable[str], shared: Iterable[str] = ()) -> None:
        self._nft = nft
        self._guarded: dict[str, Orders] = {}
        self._held: set[str] = set()
        self._holding: tuple[tuple[str, ...], Holding] = (), Holding(())
        """Of the addresses that were held last: mostly they are the same for hours."""
        self._deadlines: dict[str, int] | None = {}
        # In one transaction: an address that a dead pulse left behind answers in no moment between two.
        self._guard({**dict.fromkeys(shared, True), **dict.fromkeys(addresses, False)}, [_BASE])
        # Renewed many times a second, in a process that goes before all others: nft's language takes long.
        self._kernel = Nfnetlink()

    def guard(self, addresses: Iterable[str], *, shared: bool = False) -> None:
        """From here on these are silent unless held; known ones keep their state.

        A `shared` address is served by several machines, and asked for at one: questions for it are silenced,
        while whatever that one passes on to this machine goes on.
        """
        self._guard(dict.fromkeys(addresses, shared), [])

    def _guard(self, addresses: Mapping[str, bool], commands: list[str]) -> None:
        """By address, whether it is shared."""
        new = [address for address in addresses if address not in self._guarded]
        numbered = dict(zip(new, itertools.count(len(self._guarded)), strict=False))
        for address, number in numbered.items():
            commands += _guard_commands(address, number, addresses[address])
        if commands:
            self._nft.run("\n".join(commands))
        # Known from now on, not before: what was refused is to be asked for again.
        self._guarded |= {
            address: Orders(address, number, shared=addresses[address])
            for address, number in numbered.items()
        }

    def renew(self, wall: float, remaining: Mapping[str, float]) -> None:
        """Hold each of these for so many seconds, and silence the others, in one transaction.

        `wall` was read together with the clock that `remaining` was computed from. The second net compares
        the wall clock per packet: an element that a stopped process adds too late answers for a second at
        the most.
        """
        assert set(remaining) <= set(self._guarded)
        lasting = {address: left for address, left in remaining.items() if left >= SHORTEST_S}
        if not lasting and not self._held:
            return
        messages = [self._guarded[address].silence for address in sorted(self._held - set(lasting))]
        if lasting:
            messages.append(self._hold(tuple(lasting)).lasting(list(lasting.values())))
        deadlines = {address: math.ceil(wall + left) for address, left in lasting.items()}
        if deadlines != self._deadlines:
            # The rules are the dearer half of a renewal, and stay the same for a second.
            messages.append(FLUSH_LATE)
            messages += [self._guarded[address].drop_from(second) for address, second in deadlines.items()]
        # If it fails: a transaction whose answer was lost may have happened.
        self._held |= set(lasting)
        self._deadlines = None
        self._kernel.transact(messages)
        self._held, self._deadlines = set(lasting), deadlines

    def _hold(self, addresses: tuple[str, ...]) -> Holding:
        if self._holding[0] != addresses:
            self._holding = addresses, Holding([self._guarded[address] for address in addresses])
        return self._holding[1]

    def restore(self) -> None:
        """Guard everything anew where somebody took our rules away; all is silent until it is renewed."""
        guarded = {address: orders.shared for address, orders in self._guarded.items()}
        self._guarded, self._held, self._deadlines = {}, set(), {}
        self._guard(guarded, [_BASE])

    def remove(self) -> bool:
        """Take the rules away, unless an address may still be on this machine."""
        if self._held:
            return False
        self._nft.run(f"delete table inet {TABLE}\ndelete table arp {TABLE}")
        return True


def is_silenced(kernel: Nfnetlink, address: str) -> bool:
    """Whether the dead-man lease, whoever keeps it, lets this machine answer for the address no more.

    Also where the kernel gives no answer: what is not announced now is announced a moment later.
    """
    version = ipaddress.ip_address(address).version
    try:
        # The likely answer first: who announces an address mostly holds it.
        return not _has(kernel, f"held{version}", address) and any(
            _has(kernel, f"{kind}{version}", address) for kind in ("guarded", "shared")
        )
    except RulesRefused:
        return True


def _has(kernel: Nfnetlink, name: str, address: str) -> bool:
    try:
        kernel.ask(is_in(name, address))
    except NotThere:
        return False
    return True


# Declared, deleted, declared anew: what an earlier life held is silent at once.
_BASE: Final = f"""
add table inet {TABLE}
delete table inet {TABLE}
add table inet {TABLE}
add set inet {TABLE} guarded4 {{ type ipv4_addr; }}
add set inet {TABLE} shared4 {{ type ipv4_addr; }}
add set inet {TABLE} held4 {{ type ipv4_addr; flags timeout; }}
add set inet {TABLE} guarded6 {{ type ipv6_addr; }}
add set inet {TABLE} shared6 {{ type ipv6_addr; }}
add set inet {TABLE} held6 {{ type ipv6_addr; flags timeout; }}
add chain inet {TABLE} {LATE}
add chain inet {TABLE} in {{ type filter hook prerouting priority -350; policy accept; }}
add rule inet {TABLE} in ip daddr @guarded4 ip daddr != @held4 drop
add rule inet {TABLE} in ip6 daddr @guarded6 ip6 daddr != @held6 drop
add rule inet {TABLE} in jump {LATE}
add table arp {TABLE}
delete table arp {TABLE}
add table arp {TABLE}
add set arp {TABLE} guarded {{ type ipv4_addr; }}
add set arp {TABLE} held {{ type ipv4_addr; flags timeout; }}
add chain arp {TABLE} {LATE}
add chain arp {TABLE} in {{ type filter hook input priority 0; policy accept; }}
add rule arp {TABLE} in arp daddr ip @guarded arp daddr ip != @held drop
add rule arp {TABLE} in jump {LATE}
"""


def _guard_commands(address: str, number: int, shared: bool) -> list[str]:
    kind = "shared" if shared else "guarded"
    if ipaddress.ip_address(address).version == 4:
        return [
            f"add element inet {TABLE} {kind}4 {{ {address} }}",
            f"add element arp {TABLE} guarded {{ {address} }}",
        ]
    # A neighbour solicitation goes to a group; its target is in the payload, where this nft compares numbers
    # but no sets of addresses. So each address has a set of its own, of one element.
    solicits = f"icmpv6 type nd-neighbor-solicit @th,64,128 {int(ipaddress.IPv6Address(address)):#034x}"
    return [
        f"add element inet {TABLE} {kind}6 {{ {address} }}",
        f"add set inet {TABLE} asked{number} {{ type icmpv6_type; flags timeout; }}",
        f"add rule inet {TABLE} in {solicits} icmpv6 type != @asked{number} drop",
    ]
