"""What the named counters of a table say.

In the kernel's own messages: nft lists nothing before it has read all of a table, which takes tens of
milliseconds where it has maps, and begins anew whenever something changes, as leases do many times a second.
"""

from __future__ import annotations

from typing import Final

from orchestrator.host.nfdump import FAMILIES, attributes, listed
from orchestrator.host.nfnetlink import NLM_F_DUMP, Kind, message, text, word

# linux/netfilter/nf_tables.h
NFTA_OBJ_TABLE: Final = 1
NFTA_OBJ_NAME: Final = 2
NFTA_OBJ_TYPE: Final = 3
NFTA_OBJ_DATA: Final = 4
NFT_OBJECT_COUNTER: Final = 1
NFTA_COUNTER_BYTES: Final = 1
NFTA_COUNTER_PACKETS: Final = 2


def counters(family: str, table: str) -> dict[str, tuple[int, int]]:
    """By name: packets and bytes. None where there is no such table."""
    question = message(
        Kind.NFT_MSG_GETOBJ,
        FAMILIES[family],
        NLM_F_DUMP,
        text(NFTA_OBJ_TABLE, table),
        word(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER),
    )
    found = {}
    for entry in listed(question):
        data = attributes(entry[NFTA_OBJ_DATA])
        name = entry[NFTA_OBJ_NAME].rstrip(b"\0").decode()
        found[name] = _number(data[NFTA_COUNTER_PACKETS]), _number(data[NFTA_COUNTER_BYTES])
    return found


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")
