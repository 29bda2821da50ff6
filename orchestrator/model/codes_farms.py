"""The HF codes of farms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.model.code import REFUSED, USAGE, Code

_NOTHING: Final = "Nothing: this is told so that the log is complete."

FARMS: Final[Mapping[str, Code]] = {
    "HF4500": Code(
        "former owners not kept",
        "Who had the farm's buckets before could not be written to the agent's run directory, or not be read "
        "from it. Traffic goes on; after a restart of this agent connections that outlived a change of the "
        "shares may be reset by the next one.",
        "The reason is beside it: make room in the run directory. The next change is kept again by itself.",
    ),
    "HF6021": Code(
        "traffic is shared out anew",
        "Other nodes than before take the farm's traffic, or in other parts.",
        _NOTHING,
    ),
    "HF6022": Code(
        "not prepared in time",
        "A node that was to get connections of another did not say that it knows where they are: its agent "
        "is away, or the nodes do not all hear each other.",
        "`hafarm status` on each node says whom it hears; mend the path between those that do not.",
    ),
    "HF6033": Code(
        "joined without the others' memory",
        "A node that joins asks the others who had the farm's buckets before it came. None of them answered "
        "in time, so it serves with what it saw itself: connections that outlived an earlier change of the "
        "shares may be reset.",
        "`hafarm status` says which agents do not answer; new connections are not concerned.",
    ),
    "HF6032": Code(
        "not heard by a node that serves",
        "In the mode `invisible` every node gets every packet. Another node serves this one's part, because "
        "it does not hear it; two answers would break the connection, so this one takes no new ones.",
        "Mend the way from this node to the other (`hafarm status` on both); it goes on by itself.",
    ),
    "HF6023": Code(
        "node comes and goes",
        "A node was lost several times within a short while. It is left out for a moment, each time longer, "
        "so that clients are not sent to and fro.",
        "Look at its network and its load; `hafarm timings` says which detection time would have been safe.",
    ),
    "HF6024": Code(
        "traffic not let in",
        "The farm's rules or addresses could not be set in this node's kernel: the others have its part.",
        "The reason is beside it; it is tried again by itself.",
    ),
    "HF6025": Code(
        "drain is over",
        "A node that drained had connections left when its limit was over.",
        "`hafarm drain MODULE --node NODE --limit 1h` waits longer.",
    ),
    "HF6026": Code(
        "other configuration",
        "Another node's file shares this farm out otherwise: a client may be sent to another node each time "
        "that another of them answers.",
        "Give all nodes the same file, and restart their agents: services go on.",
    ),
    "HF6027": Code(
        "nobody else takes traffic",
        "This node is the last that takes the farm's traffic.",
        "Start another node first (`hafarm start MODULE --node NODE`), or insist with --force.",
        REFUSED,
    ),
    "HF6028": Code(
        "not now",
        "The order does not fit what the farm does on this node now.",
        "`hafarm status MODULE` says what it does.",
        REFUSED,
    ),
    "HF6029": Code(
        "order is for the other kind",
        "Mirrors are promoted, swapped and resynced; nodes of farms are drained and weighed.",
        "`hafarm --help`.",
        USAGE,
    ),
    "HF6031": Code(
        "node missing",
        "Drain, undrain and weight concern one node.",
        "Add --node NODE.",
        USAGE,
    ),
    "HF6030": Code(
        "no such weight",
        "A node's weight is given in per cent of what the file says.",
        "`hafarm weight MODULE --node NODE 50`.",
        USAGE,
    ),
}
