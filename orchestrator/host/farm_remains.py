"""What a farm, or any life before this one, left in the kernel: found, and taken away."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import ClassVar, Final

from orchestrator.farm.plane import DEVICE, device_of
from orchestrator.farm.rules import TABLE, table_of
from orchestrator.host.netlink import Interface, Netlink
from orchestrator.host.nft import Nft, open_nft
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import ModuleName

_TABLE: Final = re.compile(r"^table (\w+) (\S+)", re.M)
_ELEMENTS: Final = re.compile(r"elements = \{([^}]*)\}")


@dataclass(eq=False)
class AgentAtWork(HafarmError):
    """What is there belongs to somebody who lives."""

    code: ClassVar[str] = "HF4520"
    where: str

    def __str__(self) -> str:
        return (
            f"an agent runs on this node (with {self.where}), and keeps what would be taken away: "
            "`hafarm stop MODULE --node NODE` ends one farm here; or stop the agent first"
        )


async def clean_all() -> None:
    """Nothing of any farm is in the kernel when it returns, whichever life put it there."""
    net, nft = Netlink(), open_nft()
    await net.open()
    try:
        await _remove(net, nft, lambda table: table.startswith(TABLE), lambda link: link.startswith(DEVICE))
    finally:
        net.close()


async def remove_farm(net: Netlink, nft: Nft, farm: ModuleName) -> None:
    await _remove(net, nft, table_of(farm).__eq__, device_of(farm).__eq__)


def tables_there(nft: Nft) -> list[tuple[str, str]]:
    """All tables of this kernel: family and name."""
    return _TABLE.findall(nft.run("list tables"))


async def _remove(
    net: Netlink, nft: Nft, is_table: Callable[[str], bool], is_device: Callable[[str], bool]
) -> None:
    """The tables are the last to go: they keep others from asking for an address, and say which there are."""
    tables = [(family, name) for family, name in tables_there(nft) if is_table(name)]
    places = _recorded(nft, tables)
    for placed in await net.addresses():
        if placed.address in places:
            net.remove(placed)
    for name, link in (await net.links()).items():
        if is_device(name):
            await net.remove_link(link)
    if tables:
        nft.run("\n".join(f"delete table {family} {name}" for family, name in tables))


def _recorded(nft: Nft, tables: list[tuple[str, str]]) -> set[Interface]:
    found: set[Interface] = set()
    for family, name in tables:
        if family in ("ip", "ip6"):
            for elements in _ELEMENTS.findall(nft.run(f"list set {family} {name} addresses")):
                found |= {ip_interface(text.strip()) for text in elements.split(",")}
    return found
