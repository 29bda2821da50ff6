"""The HF codes of volumes, copies and replication."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.model.code import REFUSED, USAGE, Code

_NOTHING: Final = "Nothing: this is told so that the log is complete."

COPIES: Final[Mapping[str, Code]] = {
    "HF4001": Code(
        "volume failed",
        "The replicated directory cannot be served here: its disk failed, or the mount is gone. This node "
        "left its role and follows nobody on that disk, as memory may hold what the disk has not.",
        "`hafarm stop MODULE --node NODE`, repair the disk and mount it anew, then `hafarm start`; or boot.",
    ),
    "HF4002": Code(
        "replicator is gone",
        "The module's replicator ended; its keeper starts it again.",
        "If it comes back again and again: its log says why.",
    ),
    "HF4003": Code(
        "member given up",
        "A node of the in-sync set did not keep up, and the primary goes on without it.",
        "It comes back by itself with a resync; if not, look at its disk and at the network.",
    ),
    "HF4004": Code(
        "copies do not fit",
        "The two copies have histories that do not follow from one another.",
        "`hafarm events` names the verdict; `hafarm resync MODULE --node NODE --adopt` gives up "
        "that node's own history (differing files are set aside first).",
    ),
    "HF4005": Code(
        "directory cannot be replicated",
        "The directory is missing, or its file system cannot keep what a mirror promises: tmpfs forgets "
        "everything with the current, others give no lasting handle to a file.",
        "Name a real directory on a local ext4 or xfs, then `hafarm start MODULE`; nothing was changed.",
    ),
    "HF4006": Code(
        "resync begins",
        "A copy is brought up to date: by the log of what may differ, or by comparing every file where "
        "that log does not say enough.",
        _NOTHING,
    ),
    "HF4016": Code(
        "two histories",
        "Two copies were both written to, each without the other: both were made to serve, by force or "
        "from outside. One side is followed now; nothing was merged, and what the other side had "
        "otherwise is kept aside on its disk.",
        "`hafarm divergence list`, then `hafarm divergence show MODULE`: take what is needed from the "
        "kept files into the module, then `hafarm divergence release MODULE`. While both sides still "
        "serve, nothing is overwritten: `hafarm stop MODULE`, `hafarm start MODULE --node NODE` for the side "
        "to keep (unless it serves by itself, `hafarm promote MODULE --node NODE --accept-data-loss`), then "
        "start the other.",
    ),
    "HF4017": Code(
        "no such divergence",
        "No node that was asked keeps files of a divergence of this name.",
        "`hafarm divergence list` names all; start a node that was not asked.",
        USAGE,
    ),
    "HF4018": Code(
        "divergence in use",
        "Not all that it names is set aside yet; a copy would overwrite the rest unseen.",
        "Wait until the node serves or is in sync (`hafarm status -w`), and release it then.",
        REFUSED,
    ),
    "HF4011": Code(
        "not our stream",
        "What arrived on a replication connection is nothing that hafarm sends.",
        "Check that all nodes run the same version, and what else dials this port.",
    ),
    "HF4012": Code(
        "replicator turned away",
        "The other side's replicator is not the one that this node may talk to.",
        "The word beside it says why: version, foreign, clone, patterns, epoch or not-following. `patterns`: "
        "`exclude` and `only` have to be the same on all nodes; stop the module everywhere, and start it.",
    ),
    "HF4013": Code(
        "write not applied here",
        "This node's disk did not take what the primary's disk took; the primary goes on without this node.",
        "Free space or repair the disk; the node comes back by itself with a resync.",
    ),
    "HF4014": Code(
        "replication connection ended",
        "The network between the replicators broke, or the other side was silent too long.",
        "Nothing, if it passes: it is dialled again.",
    ),
    "HF4015": Code(
        "joiner is not ready any more",
        "A node that had caught up fell behind again before it was taken in.",
        "Nothing, if it passes; if not, look at that node's disk and at the network.",
    ),
    "HF4020": Code(
        "changed behind hafarm's back",
        "Files below the mount were changed while it was not there, or are younger than the last moment at "
        "which this node certainly watched them. On the node that serves they count and are replicated; on "
        "one that follows they are set aside before the primary's are copied over them.",
        "`hafarm divergence show MODULE` lists them; `hafarm divergence release MODULE` if all is well.",
    ),
    "HF4021": Code(
        "sentinel is missing",
        "The directory lacks what `must_exist` names, so these are not the module's files: mostly its disk "
        "is not mounted. No role is taken on this node with them, and nothing was changed here or elsewhere.",
        "Mount the disk; the module starts by itself then. To fill a new, empty disk: let another node "
        "serve, make the named path on it by hand, then `hafarm start MODULE --node NODE`.",
        REFUSED,
    ),
    "HF4022": Code(
        "owners differ",
        "Files are replicated with the numbers of their owners. A user or group has another name or number "
        "on another node, so after a move of the role the files would belong to somebody else there.",
        "Give users and groups the same numbers on all nodes (`usermod -u`, `groupmod -g`), then "
        "`hafarm config check FILE` once more.",
    ),
    "HF4023": Code(
        "peer is slow",
        "Synced writes take long to be on another node's disk, several times what is usual or more than a "
        "second, while this node's own disk is faster. The node lives, and each synced write waits for it.",
        "Look at that node's disk and at the network between. `slow_peer: {after: 5s, do: drop}` in the file "
        "lets the primary go on without such a node until it is fast again.",
    ),
    "HF4024": Code(
        "peer is fast again",
        "No synced write took long on the other node for ten seconds.",
        _NOTHING,
    ),
    "HF4040": Code(
        "disk hangs",
        "The disk of this node has answered neither a write nor a sync for ten seconds, and no error either. "
        "Whatever waits for it waits; the node keeps its role as long as nobody says otherwise.",
        "Look at the disk and at the kernel's log. If it does not come back, switch this node off: another "
        "one takes over. `hung_disk: {after: 30s, do: move}` in the file gives the role away by itself.",
    ),
    "HF4041": Code(
        "disk answers again",
        "The disk of this node answers again, after it had hung.",
        _NOTHING,
    ),
    "HF4046": Code(
        "directories compared whole",
        "While another node was away more files changed than are kept one by one. Of the directories in "
        "which the eldest of these changes were, all that is directly in them is compared at its return.",
        "Nothing; the larger these directories, the longer the resync: `hafarm resync MODULE --estimate`.",
    ),
    "HF4019": Code(
        "comparison under way",
        "This module's copies are compared already; a second comparison would read every disk twice.",
        "Wait for its end, and ask again.",
        REFUSED,
    ),
}
