"""The HF codes of addresses that a cloud moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.model.code import DIFFERS, UNREACHABLE, USAGE, Code

_NOTHING: Final = "Nothing: this is told so that the log is complete."

CLOUDS: Final[Mapping[str, Code]] = {
    "HF7000": Code(
        "the cloud refuses",
        "The cloud understood a request and said no. Asking again will not help; nothing was changed by it.",
        "`hafarm provider policy NAME` prints the rights that this node's role needs, and `hafarm provider "
        "test NAME --dry-run` says which of them it lacks.",
    ),
    "HF7001": Code(
        "the cloud does not answer",
        "A request to the cloud got no answer in time, or was put off by it (throttled). It may have "
        "been carried out: hafarm looks who has the address before it asks again, and does so by itself.",
        "Look at the node's way to the cloud's API (`hafarm provider test NAME --dry-run`).",
        UNREACHABLE,
    ),
    "HF7002": Code(
        "the address is somebody else's",
        "What has the address now is no node of this module, so it is not taken away from there.",
        "Find it by what is named beside it and take the address away there, or choose another address.",
    ),
    "HF7003": Code(
        "the order is out of date",
        "A request was held back because this node's reign, or the lease that proves it, had ended before it "
        "left.",
        _NOTHING,
    ),
    "HF7004": Code(
        "the provider is not installed",
        "Each cloud's own library comes with an extra of this package; without it nothing can be asked "
        "there.",
        "Install it on every node, such as `pip install 'hafarm[aws]'`, and restart the agents: services "
        "go on.",
    ),
    "HF7005": Code(
        "the place does not fit",
        "What hafarm.yaml says of a virtual IP does not fit what is there in the cloud. Nothing was changed.",
        "Correct what is named beside it; `hafarm provider test NAME --dry-run` looks again.",
    ),
    "HF7006": Code(
        "the metadata service does not answer",
        "The machine says that it runs in a cloud, but the cloud's metadata service, which knows where, does "
        "not answer.",
        "Enable it for this machine (on AWS version 2, hop limit 2 where the agent is in a container), or "
        "say in hafarm.yaml what it would have said: `settings: {region: ...}`, on Azure `settings: "
        "{subscription: ..., resource_group: ...}`.",
        UNREACHABLE,
    ),
    "HF7010": Code(
        "who moves the addresses",
        "Which provider and which way of moving was chosen for a virtual IP on this node, and why.",
        _NOTHING,
    ),
    "HF7011": Code(
        "address moved in part",
        "A part of the cloud still leads elsewhere, such as one of several route tables. The service runs; "
        "clients behind that part do not reach it. It is tried again every few seconds.",
        "The reason is beside it; `hafarm vip show` lists what is missing.",
    ),
    "HF7012": Code(
        "address was taken back",
        "The cloud led the address elsewhere although this node serves; it was led here again.",
        "Find out who changed it: another tool, or a node of another cluster with the same address.",
    ),
    "HF7013": Code(
        "address is whole again",
        "Everything in the cloud that belongs to the address leads here.",
        _NOTHING,
    ),
    "HF7014": Code(
        "the provider's process ended",
        "The process that speaks to the cloud ended or did not answer and was ended. A new one is started by "
        "itself; nothing that runs is touched.",
        "If it happens again and again, its log (`provider-NAME.log`) says why.",
    ),
    "HF7020": Code(
        "the provider is not ready",
        "Looking at the cloud found what would refuse or disturb a move of an address on the day it is "
        "needed.",
        "Mend what is marked with `fail`, and test again.",
        DIFFERS,
    ),
    "HF7021": Code(
        "no such provider here",
        "No virtual IP in hafarm.yaml is moved by that provider.",
        "`hafarm vip show` says which provider moves which address.",
        USAGE,
    ),
    "HF7022": Code(
        "no such address",
        "No module of this node has that virtual IP.",
        "`hafarm vip show` lists all.",
        USAGE,
    ),
}
