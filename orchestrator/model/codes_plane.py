"""The HF codes of a farm's data plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.model.code import REFUSED, Code

PLANE: Final[Mapping[str, Code]] = {
    "HF4520": Code(
        "an agent runs here",
        "`hafarm agent --clean` takes away what farms of earlier agents left. An agent that runs would put "
        "it back, and clients would notice.",
        "`hafarm stop MODULE --node NODE` ends a farm on this node; or stop the agent, then clean.",
        REFUSED,
    ),
    "HF6101": Code(
        "the farm's interface does not fit",
        "The interface that the farm is to use on this node is missing or down. Nothing was changed.",
        "`ip link` lists the interfaces; set it up, or name another one.",
    ),
    "HF6102": Code(
        "address in no local subnet",
        "The interface has no address in the subnet of the farm's address: nobody would look for it there.",
        "Choose an address of a subnet that all nodes of the farm share, or name the right interface.",
    ),
    "HF6103": Code(
        "address is taken",
        "A machine that is no node of the farm answers for the farm's address.",
        "Find it by its hardware address and take the address away there, or choose another.",
    ),
    "HF6104": Code(
        "the kernel does not take the rules",
        "nftables is not installed or not permitted, or this kernel lacks a part that a farm needs.",
        "Install nftables and run the agent as root; the kernel must be 5.16 or later with nf_tables, and "
        "have macvlan for the mode `invisible`.",
    ),
    "HF6106": Code(
        "an interface cannot be made",
        "The kernel refused the interface that bears the virtual hardware address of a farm.",
        "Look at the reason beside it; most likely the kernel has no macvlan. Choose the mode `directed`.",
    ),
    "HF6107": Code(
        "packet rules were put back",
        "Somebody, most likely a firewall service that starts anew, took rules of the farm away.",
        "Let that service leave tables alone that are not its own: no `flush ruleset`.",
    ),
    "HF6108": Code(
        "a farm's address was put back",
        "An address of the farm had vanished from an interface; it is there again.",
        "Find out what removes addresses on this node: network services that are restarted do.",
    ),
    "HF6109": Code(
        "a farm's address is claimed elsewhere",
        "A machine that is no node of the farm says that it has the farm's address.",
        "Find it by its hardware address and take the address away there.",
    ),
}
