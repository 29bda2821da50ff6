"""What tables of nftables hold, in the kernel's own messages: which there are, and whether they changed.

nft lists nothing before it has read all of a table, which takes tens of milliseconds where it has maps, and
begins anew whenever anything changes, as leases do many times a second: on a busy node it may never end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from orchestrator.farm.ruleset import Ruleset, Table
from orchestrator.host.nfdump import FAMILIES, attributes, bodies, each_attribute, listed
from orchestrator.host.nfnetlink import NLM_F_DUMP, Kind, NotThere, message, text

# linux/netfilter/nf_tables.h
NFTA_TABLE_NAME: Final = 1
NFTA_CHAIN_TABLE: Final = 1
NFTA_CHAIN_NAME: Final = 3
NFTA_RULE_TABLE: Final = 1
NFTA_RULE_CHAIN: Final = 2
NFTA_SET_TABLE: Final = 1
NFTA_SET_NAME: Final = 2
NFTA_SET_ELEM_LIST_TABLE: Final = 1
NFTA_SET_ELEM_LIST_SET: Final = 2
NFTA_SET_ELEM_LIST_ELEMENTS: Final = 3
NFTA_SET_ELEM_KEY: Final = 1
NFTA_DATA_VALUE: Final = 1
_FAMILY_BYTES: Final = 4
_NAMES: Final = {number: name for name, number in FAMILIES.items()}


def tables() -> list[tuple[str, str]]:
    """All of this network: family and name."""
    found = bodies(message(Kind.NFT_MSG_GETTABLE, 0, NLM_F_DUMP))
    return [
        (_NAMES.get(body[0], str(body[0])), _text(attributes(body[_FAMILY_BYTES:])[NFTA_TABLE_NAME]))
        for body in found
    ]


def addresses_in(family: str, table: str, name: str) -> set[IPv4Address | IPv6Address]:
    """The elements of a set of addresses."""
    keys = (attributes(element)[NFTA_SET_ELEM_KEY] for element in _elements(family, table, name))
    return {ip_address(attributes(key)[NFTA_DATA_VALUE]) for key in keys}


def digest(ruleset: Ruleset) -> str | None:
    """Of all that these tables hold, counts aside; None where something of theirs is missing."""
    found = hashlib.blake2b()
    for (family, name), table in ruleset.items():
        try:
            for part in _parts(family, name, table):
                found.update(part)
        except NotThere:
            return None
    return found.hexdigest()


def _parts(family: str, name: str, table: Table) -> Iterator[bytes]:
    number = FAMILIES[family]
    rules: dict[str, list[bytes]] = {}
    for body in bodies(message(Kind.NFT_MSG_GETRULE, number, NLM_F_DUMP, text(NFTA_RULE_TABLE, name))):
        known = attributes(body[_FAMILY_BYTES:])
        if body[0] == number and _text(known[NFTA_RULE_TABLE]) == name:
            # Without its head, in which the kernel counts every change of anybody.
            rules.setdefault(_text(known[NFTA_RULE_CHAIN]), []).append(body[_FAMILY_BYTES:])
    for chain, wanted in sorted(table.chains.items()):
        if len(there := rules.get(chain, [])) < len(wanted.rules):
            raise NotThere(f"rules of chain {chain}")
        yield from there
    # A chain's own entry counts who refers to it, and its name is all that can be missing of it.
    chains = {
        _text(known[NFTA_CHAIN_NAME])
        for known in listed(message(Kind.NFT_MSG_GETCHAIN, number, NLM_F_DUMP))
        if _text(known[NFTA_CHAIN_TABLE]) == name
    }
    if not chains >= set(table.chains):
        raise NotThere("a chain")
    sets = {
        _text(known[NFTA_SET_NAME])
        for known in listed(message(Kind.NFT_MSG_GETSET, number, NLM_F_DUMP, text(NFTA_SET_TABLE, name)))
        if _text(known[NFTA_SET_TABLE]) == name
    }
    for set_name, elements in sorted(table.sets.items()):
        if set_name not in sets:
            raise NotThere(f"set {set_name}")
        # Their order is that of a hash, which may change without them.
        there = sorted(_elements(family, name, set_name))
        if len(there) < len(elements.elements):
            raise NotThere(f"elements of {set_name}")
        yield from there


def _elements(family: str, table: str, name: str) -> Iterator[bytes]:
    question = message(
        Kind.NFT_MSG_GETSETELEM,
        FAMILIES[family],
        NLM_F_DUMP,
        text(NFTA_SET_ELEM_LIST_TABLE, table),
        text(NFTA_SET_ELEM_LIST_SET, name),
    )
    for part in listed(question):
        for _, element in each_attribute(part.get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
            yield element


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
