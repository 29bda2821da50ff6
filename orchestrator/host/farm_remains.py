"""What a farm, or any life before this one, left in the kernel: found, and taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import ClassVar

from orchestrator.farm.plane import DEVICE, device_of
from orchestrator.farm.rules import TABLE, table_of
from orchestrator.host.netlink import Interface, Netlink
from orchestrator.host.nft import Nft, open_nft
from orchestrator.host.nftables_seen import addresses_in, tables
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import ModuleName


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


async def _remove(
    net: Netlink, nft: Nft, is_table: Callable[[str], bool], is_device: Callable[[str], bool]
) -> None:
    """The tables are the last to go: they keep others from asking for an address, and say which there are."""
    ours = [(family, name) for family, name in tables() if is_table(name)]
    recorded = _recorded(ours)
    for placed in await net.addresses():
        if placed.address in recorded:
            net.remove(placed)
    for name, link in (await net.links()).items():
        if is_device(name):
            await net.remove_link(link)
    if ours:
        nft.run("\n".join(f"delete table {family} {name}" for family, name in ours))


def _recorded(ours: list[tuple[str, str]]) -> set[Interface]:
    """What their owner put on interfaces, as it wrote down in the rules."""
    found = (addresses_in(family, name, "addresses") for family, name in ours if family in ("ip", "ip6"))
    return {ip_interface(address) for each in found for address in each}
