"""The HF codes of what the place that nodes run in does to them: fences and scheduled events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.model.code import REFUSED, USAGE, Code

_NOTHING: Final = "Nothing: this is told so that the log is complete."

PLATFORM: Final[Mapping[str, Code]] = {
    "HF7060": Code(
        "a node is switched off",
        "The cloud is asked to switch another node's machine off: by an operator's order, or because its "
        "role was taken over and hafarm.yaml wants it so.",
        _NOTHING,
    ),
    "HF7061": Code(
        "a node is off",
        "The cloud says that the machine is off: nothing that ran there goes on.",
        "Start the machine when its trouble is known; hafarm takes it in again by a resync.",
    ),
    "HF7062": Code(
        "a node is not known to be off",
        "The cloud refused to switch the machine off, or does not say that it is off. It may run. Nothing "
        "that was written is in danger: without the record it acknowledges nothing.",
        "The reason is beside it. Look at the machine in the cloud; `hafarm provider test NAME --dry-run` "
        "says which rights are lacking, and `hafarm fence NODE` tries again.",
    ),
    "HF7063": Code(
        "a fence was given up",
        "It is not needed or not allowed any more, or never was: the node has let go by itself, or this node "
        "does not hold the record. Nothing more is sent to the cloud.",
        "If that node is to be off all the same: `hafarm fence NODE`, on the node that serves.",
    ),
    "HF7064": Code(
        "this node may not switch others off",
        "Only who holds the record of a mirror may switch its other nodes off: two nodes that lost each "
        "other would switch each other off.",
        "Order it on the node that serves (`hafarm status`).",
        REFUSED,
    ),
    "HF7065": Code(
        "that node is not switched off",
        "It holds a record, so its service would end with it; or it is this node itself, or none of the "
        "cluster.",
        "Swap its modules away first (`hafarm swap MODULE`), or wait until another node has taken them over.",
        REFUSED,
    ),
    "HF7066": Code(
        "nobody can switch nodes off",
        "hafarm.yaml names no provider for it.",
        "Add `fence: {provider: aws}` to `cluster`, and give the nodes the rights that `hafarm provider "
        "policy aws` prints.",
        USAGE,
    ),
    "HF7067": Code(
        "not confirmed",
        "To switch a node off its name must be typed, or `--yes` given.",
        "Type the node's name when asked.",
        REFUSED,
    ),
    "HF7070": Code(
        "the cloud will do something to this machine",
        "Its metadata service announces a maintenance, a stop, or that a spot machine is taken back.",
        "With `scheduled_events: swap` hafarm gives this node's roles away; else `hafarm swap MODULE`.",
    ),
    "HF7071": Code(
        "a role is given away before it is lost",
        "By `scheduled_events: swap`: a mirror's role goes to another node that is in sync, of a farm this "
        "node takes no new connections and finishes those that it has.",
        _NOTHING,
    ),
    "HF7072": Code(
        "a role cannot leave the machine that will go",
        "Something will happen to this machine, and no other node can take over what runs here. It is tried "
        "again every 15 s; if the machine goes first, the service stops, or fails over as after any loss.",
        "The reason is beside it: bring another node in sync (`hafarm status`), or move the time in the "
        "cloud.",
    ),
    "HF7073": Code(
        "the cloud's announcement is over",
        "It happened, or was called off. Farms that this node left because of it are taken up again.",
        _NOTHING,
    ),
    "HF7074": Code(
        "nothing announces what will happen",
        "hafarm.yaml wants scheduled events heeded, and this machine is in none of the clouds that announce "
        "any: AWS, Azure, Google Cloud.",
        "Nothing, where the cluster is only partly in a cloud; else take `scheduled_events` out of "
        "hafarm.yaml.",
    ),
    "HF7075": Code(
        "the cloud was told to go on",
        "Nothing is served here any more, so that the announced event may begin before its time (Azure).",
        _NOTHING,
    ),
    "HF7068": Code(
        "no such fence",
        "This node's agent was not asked to switch that node off since it started.",
        "`hafarm events` says what was done before.",
        USAGE,
    ),
}
