"""What the dead-man lease tells the kernel of an address: elements with a time-out, rules with a deadline."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from orchestrator.host.nfnetlink import NLM_F_APPEND, NLM_F_CREATE, Kind, blob, message, nested, text, word

TABLE: Final = "hafarm_lease"
LATE: Final = "late"
ND_NEIGHBOR_SOLICIT: Final = 135

# linux/netfilter.h, linux/netfilter/nf_tables.h
NFPROTO_INET: Final = 1
NFPROTO_IPV4: Final = 2
NFPROTO_ARP: Final = 3
NFPROTO_IPV6: Final = 10
NF_DROP: Final = 0
NFTA_LIST_ELEM: Final = 1
NFTA_RULE_TABLE: Final = 1
NFTA_RULE_CHAIN: Final = 2
NFTA_RULE_EXPRESSIONS: Final = 4
NFTA_SET_ELEM_LIST_TABLE: Final = 1
NFTA_SET_ELEM_LIST_SET: Final = 2
NFTA_SET_ELEM_LIST_ELEMENTS: Final = 3
NFTA_SET_ELEM_KEY: Final = 1
NFTA_SET_ELEM_TIMEOUT: Final = 4
NFTA_DATA_VALUE: Final = 1
NFTA_DATA_VERDICT: Final = 2
NFTA_VERDICT_CODE: Final = 1
NFTA_EXPR_NAME: Final = 1
NFTA_EXPR_DATA: Final = 2
NFTA_META_DREG: Final = 1
NFTA_META_KEY: Final = 2
NFTA_PAYLOAD_DREG: Final = 1
NFTA_PAYLOAD_BASE: Final = 2
NFTA_PAYLOAD_OFFSET: Final = 3
NFTA_PAYLOAD_LEN: Final = 4
NFTA_CMP_SREG: Final = 1
NFTA_CMP_OP: Final = 2
NFTA_CMP_DATA: Final = 3
NFTA_BYTEORDER_SREG: Final = 1
NFTA_BYTEORDER_DREG: Final = 2
NFTA_BYTEORDER_OP: Final = 3
NFTA_BYTEORDER_LEN: Final = 4
NFTA_BYTEORDER_SIZE: Final = 5
NFTA_IMMEDIATE_DREG: Final = 1
NFTA_IMMEDIATE_DATA: Final = 2
NFT_META_NFPROTO: Final = 15
NFT_META_L4PROTO: Final = 16
NFT_META_TIME_NS: Final = 30
NFT_PAYLOAD_NETWORK_HEADER: Final = 1
NFT_PAYLOAD_TRANSPORT_HEADER: Final = 2
NFT_CMP_EQ: Final = 0
NFT_CMP_GTE: Final = 5
NFT_BYTEORDER_HTON: Final = 1
NFT_REG_VERDICT: Final = 0
NFT_REG_1: Final = 1


class Orders:
    """What is ordered for one guarded address, encoded once; only a deadline differs each time."""

    def __init__(self, address: str, number: int, *, shared: bool = False) -> None:
        self.shared: Final = shared
        places = _places(address, number)
        self.elements: Final = [
            (family, name, _element(key), _element(key, blob(NFTA_SET_ELEM_TIMEOUT, bytes(_NUMBER.size))))
            for family, name, key in places
        ]
        """Of each set that holds the address: family, name, the element without a time-out and with one."""
        # Added first: deleting an element that has just timed out would fail the whole transaction.
        self.silence: Final = b"".join(
            _elements(kind, family, name, [_element(key)])
            for family, name, key in places
            for kind in (Kind.NFT_MSG_NEWSETELEM, Kind.NFT_MSG_DELSETELEM)
        )
        to_it, asking = _packets(address)
        # Packets to a shared address are no business of the lease: only who answers for it is.
        packets = (asking,) if shared else (to_it, asking)
        self._dated: Final = [_dated_rule(family, matches) for family, matches in packets]

    def drop_from(self, second: int) -> bytes:
        """Dropped from that second of the wall clock on; for an empty chain."""
        end = _NUMBER.pack(second * 1_000_000_000) + _DROP
        return b"".join(head + end for head in self._dated)


class Holding:
    """What is ordered to hold these addresses, encoded once; only their time-outs differ each time.

    Each set has all its elements in one message: this is ordered many times a second.
    """

    def __init__(self, orders: Iterable[Orders]) -> None:
        self._orders = bytearray()
        self._spots: list[tuple[int, int]] = []
        """Where a time-out stands, and the number of its address."""
        sets: dict[tuple[int, str], list[tuple[int, bytes, bytes]]] = {}
        for number, each in enumerate(orders):
            for family, name, bare, timed in each.elements:
                sets.setdefault((family, name), []).append((number, bare, timed))
        for (family, name), held in sets.items():
            for start in range(0, len(held), _ELEMENTS_MAX):
                self._add(family, name, held[start : start + _ELEMENTS_MAX])

    def _add(self, family: int, name: str, held: Sequence[tuple[int, bytes, bytes]]) -> None:
        bare = [element for _, element, _ in held]
        # Silenced first, because adding alone does not move the time-out of an element that is there.
        for kind in (Kind.NFT_MSG_NEWSETELEM, Kind.NFT_MSG_DELSETELEM):
            self._orders += _elements(kind, family, name, bare)
        timed = [element for _, _, element in held]
        self._orders += _elements(Kind.NFT_MSG_NEWSETELEM, family, name, timed)
        end = len(self._orders)
        for number, _, element in reversed(held):
            self._spots.append((end - _NUMBER.size, number))
            end -= len(element)

    def lasting(self, left_s: Sequence[float]) -> bytes:
        """Each address held for so long from now."""
        timeouts = [int(left * 1000) for left in left_s]
        for spot, number in self._spots:
            _NUMBER.pack_into(self._orders, spot, timeouts[number])
        return bytes(self._orders)


def is_in(name: str, address: str) -> bytes:
    """Asks whether a set has the address; the kernel gives out no element whose time has passed."""
    key = ipaddress.ip_address(address).packed
    return _elements(Kind.NFT_MSG_GETSETELEM, NFPROTO_INET, name, [_element(key)])


def _places(address: str, number: int) -> list[tuple[int, str, bytes]]:
    """The two sets that hold an address, and the element in each."""
    ip = ipaddress.ip_address(address)
    if ip.version == 4:
        return [(NFPROTO_INET, "held4", ip.packed), (NFPROTO_ARP, "held", ip.packed)]
    asked = (NFPROTO_INET, f"asked{number}", bytes([ND_NEIGHBOR_SOLICIT]))
    return [(NFPROTO_INET, "held6", ip.packed), asked]


def _element(key: bytes, *more: bytes) -> bytes:
    value = nested(NFTA_SET_ELEM_KEY, blob(NFTA_DATA_VALUE, key))
    return nested(NFTA_LIST_ELEM, value, *more)


def _elements(kind: Kind, family: int, name: str, elements: Iterable[bytes]) -> bytes:
    return message(
        kind,
        family,
        NLM_F_CREATE if kind is Kind.NFT_MSG_NEWSETELEM else 0,
        text(NFTA_SET_ELEM_LIST_TABLE, TABLE),
        text(NFTA_SET_ELEM_LIST_SET, name),
        nested(NFTA_SET_ELEM_LIST_ELEMENTS, *elements),
    )


def _flush(family: int) -> bytes:
    where = (text(NFTA_RULE_TABLE, TABLE), text(NFTA_RULE_CHAIN, LATE))
    return message(Kind.NFT_MSG_DELRULE, family, 0, *where)


# --- rules, with the expressions that `nft --debug=netlink list ruleset` shows of their text ---------------


def _packets(address: str) -> list[tuple[int, bytes]]:
    """The two kinds of packets that concern an address: to it, and asking for it."""
    ip = ipaddress.ip_address(address)
    if ip.version == 4:
        to_it = _compare_field(NFT_PAYLOAD_NETWORK_HEADER, 16, ip.packed)  # ip daddr
        asking = _compare_field(NFT_PAYLOAD_NETWORK_HEADER, 24, ip.packed)  # arp daddr ip
        return [(NFPROTO_INET, _compare_meta(NFT_META_NFPROTO, NFPROTO_IPV4) + to_it), (NFPROTO_ARP, asking)]
    v6 = _compare_meta(NFT_META_NFPROTO, NFPROTO_IPV6)
    to_it = _compare_field(NFT_PAYLOAD_NETWORK_HEADER, 24, ip.packed)  # ip6 daddr
    icmpv6 = _compare_meta(NFT_META_L4PROTO, socket.IPPROTO_ICMPV6)
    solicit = _compare_field(NFT_PAYLOAD_TRANSPORT_HEADER, 0, bytes([ND_NEIGHBOR_SOLICIT]))  # icmpv6 type
    asking = _compare_field(NFT_PAYLOAD_TRANSPORT_HEADER, 8, ip.packed)  # @th,64,128
    return [(NFPROTO_INET, v6 + to_it), (NFPROTO_INET, v6 + icmpv6 + solicit + asking)]


def _dated_rule(family: int, matches: bytes) -> bytes:
    """`meta time >= ... drop`, without its end: the deadline in nanoseconds, and the drop."""
    end = bytes(_NUMBER.size) + _DROP
    late = _load_time() + _compare(NFT_CMP_GTE, bytes(_NUMBER.size)) + _DROP
    rule = message(
        Kind.NFT_MSG_NEWRULE,
        family,
        NLM_F_CREATE | NLM_F_APPEND,
        text(NFTA_RULE_TABLE, TABLE),
        text(NFTA_RULE_CHAIN, LATE),
        nested(NFTA_RULE_EXPRESSIONS, matches, late),
    )
    assert rule.endswith(end)
    return rule[: -len(end)]


def _compare_meta(key: int, value: int) -> bytes:
    load = _expression("meta", word(NFTA_META_KEY, key), word(NFTA_META_DREG, NFT_REG_1))
    return load + _compare(NFT_CMP_EQ, bytes([value]))


def _compare_field(base: int, offset: int, value: bytes) -> bytes:
    load = _expression(
        "payload",
        word(NFTA_PAYLOAD_DREG, NFT_REG_1),
        word(NFTA_PAYLOAD_BASE, base),
        word(NFTA_PAYLOAD_OFFSET, offset),
        word(NFTA_PAYLOAD_LEN, len(value)),
    )
    return load + _compare(NFT_CMP_EQ, value)


def _load_time() -> bytes:
    """Now, most significant byte first: registers are compared as bytes."""
    load = _expression("meta", word(NFTA_META_KEY, NFT_META_TIME_NS), word(NFTA_META_DREG, NFT_REG_1))
    return load + _expression(
        "byteorder",
        word(NFTA_BYTEORDER_SREG, NFT_REG_1),
        word(NFTA_BYTEORDER_DREG, NFT_REG_1),
        word(NFTA_BYTEORDER_OP, NFT_BYTEORDER_HTON),
        word(NFTA_BYTEORDER_LEN, _NUMBER.size),
        word(NFTA_BYTEORDER_SIZE, _NUMBER.size),
    )


def _compare(how: int, value: bytes) -> bytes:
    return _expression(
        "cmp",
        word(NFTA_CMP_SREG, NFT_REG_1),
        word(NFTA_CMP_OP, how),
        nested(NFTA_CMP_DATA, blob(NFTA_DATA_VALUE, value)),
    )


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(NFTA_LIST_ELEM, text(NFTA_EXPR_NAME, name), nested(NFTA_EXPR_DATA, *attributes))


_NUMBER: Final = struct.Struct(">Q")
_ELEMENTS_MAX: Final = 1024  # of 40 bytes: what is nested has 64 KiB at most
_DROP: Final = _expression(
    "immediate",
    word(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT),
    nested(NFTA_IMMEDIATE_DATA, nested(NFTA_DATA_VERDICT, word(NFTA_VERDICT_CODE, NF_DROP))),
)
FLUSH_LATE: Final = _flush(NFPROTO_INET) + _flush(NFPROTO_ARP)
"""The deadlines go; an address that is held gets new ones in the same transaction."""
