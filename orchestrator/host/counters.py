"""What the named counters of a table say.

In the kernel's own messages: nft reads all tables of the machine with all their elements before it lists
anything, which takes a tenth of a second where several farms have a map for each group of ports.
"""

from __future__ import annotations

from typing import Final

from orchestrator.host.nfdump import attributes, listed
from orchestrator.host.nfnetlink import NLM_F_DUMP, Kind, message, text, word

# linux/netfilter.h, nf_tables.h
FAMILIES: Final = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "ip6": 10}
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
