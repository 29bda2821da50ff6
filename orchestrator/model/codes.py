"""The registry of HF codes: what each one means and what to do; `hafarm explain CODE` reads it aloud."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from orchestrator.model.code import (
    CONFLICT,
    DIFFERS,
    FAILED,
    FORBIDDEN,
    OK,
    REFUSED,
    TIMED_OUT,
    UNREACHABLE,
    USAGE,
    Code,
)
from orchestrator.model.codes_clouds import CLOUDS
from orchestrator.model.codes_copies import COPIES
from orchestrator.model.codes_farms import FARMS
from orchestrator.model.codes_plane import PLANE
from orchestrator.model.codes_platform import PLATFORM
from orchestrator.model.codes_registers import REGISTERS

__all__ = [
    "CODES",
    "CONFLICT",
    "DIFFERS",
    "FAILED",
    "FORBIDDEN",
    "OK",
    "REFUSED",
    "TIMED_OUT",
    "UNREACHABLE",
    "USAGE",
    "Code",
    "shown",
]

_NOTHING: Final = "Nothing: this is told so that the log is complete."

CODES: Final[Mapping[str, Code]] = MappingProxyType(
    {
        # HF10: the machine below us and our own state
        "HF1000": Code(
            "fault in hafarm",
            "Something happened that hafarm has no word for: most likely a mistake of ours.",
            "Keep `hafarm events` and the logs of the agent, and report it.",
        ),
        "HF1001": Code(
            "state is damaged",
            "A file that we wrote, or a message of another node, cannot be read back. No role is taken on "
            "doubt.",
            "Restore the named file from this node's backup, or move it away so that the node joins as a new "
            "one.",
        ),
        "HF1002": Code(
            "state cannot be made durable",
            "A write of our own state failed or was not answered; what depended on it was not done.",
            "Free space or repair the disk; then `hafarm start MODULE --node NODE`.",
        ),
        "HF1003": Code(
            "this machine cannot do it",
            "A kernel feature, a program, a right or an address that is needed is not there.",
            "`hafarm config check FILE` on this node says what is missing.",
        ),
        "HF1004": Code(
            "a process does not answer",
            "One of hafarm's own processes on a node does not answer on its socket.",
            "Look whether the agent runs (`systemctl status hafarm-agent`); it starts the others by itself.",
            UNREACHABLE,
        ),
        "HF1005": Code(
            "another agent runs",
            "One node has one agent; a second one would take the first one's processes for left-overs.",
            "`systemctl status hafarm-agent`; end the one that was started by hand.",
        ),
        # HF11: what happened to a module
        "HF1100": Code("role changed", "This node changed its role for the module.", _NOTHING),
        "HF1101": Code(
            "role taken", "This node serves under a new epoch; the reason is beside it.", _NOTHING
        ),
        "HF1102": Code("application runs", "The application was started and its checks began.", _NOTHING),
        "HF1103": Code("role is handed over", "The primary ends its work for another node.", _NOTHING),
        "HF1104": Code(
            "hand-over called off",
            "The node that was to take over is not equal any more, so the role stays where it is.",
            "Wait until it is in sync again (`hafarm status -w`), then ask once more.",
        ),
        "HF1105": Code(
            "role given up",
            "The primary stopped serving; the reason is beside it.",
            "`hafarm status` says who serves now, and what to do if nobody does.",
        ),
        "HF1106": Code("stopped", "The module has stopped on this node.", _NOTHING),
        "HF1107": Code("another node is primary", "A new record names another node as primary.", _NOTHING),
        "HF1110": Code(
            "application failed",
            "The application ended by itself or could not be started.",
            "Its output is in the log directory, one file per run.",
        ),
        "HF1111": Code(
            "check failed",
            "A check failed as often as its `fail_after` allows; the configured action follows.",
            "Look at the application's log. A check that fails in health needs a longer `timeout`.",
        ),
        "HF1112": Code(
            "application was killed",
            "It did not stop within `stop_timeout`, so its whole cgroup was killed.",
            "Give it a longer `stop_timeout` if it had work to finish.",
        ),
        "HF1113": Code(
            "application cannot be stopped",
            "Stopping it failed; it is killed by force where the role must end.",
            "Look at the application's log and at the processes in its cgroup.",
        ),
        "HF1114": Code(
            "a deed failed",
            "Something that this node had to do for the module failed; what depended on it was dropped.",
            "The reason is beside it; `hafarm config check FILE` looks for missing parts of this machine.",
        ),
        # HF12: what an operator asked and did not get
        "HF1201": Code(
            "already created",
            "This module has a record; --first is only for the very first start.",
            "`hafarm start MODULE` without --first.",
            REFUSED,
        ),
        "HF1202": Code(
            "first start refused",
            "The first start chooses whose files count, so every node of the module must be in reach and "
            "none of them may ever have known a record.",
            "Start the agents of all nodes; if a node has state of an earlier cluster, move it away there.",
            REFUSED,
        ),
        "HF1203": Code(
            "stop refused",
            "The primary serves and counts on this node: it would have to wait for it in vain.",
            "Stop the whole module, or this node alone with --node: then the primary is asked first.",
            REFUSED,
        ),
        "HF1204": Code(
            "another change is under way",
            "One planned change at a time for each module.",
            "Wait for it (`hafarm status -w`) and ask again.",
            REFUSED,
        ),
        "HF1205": Code(
            "this node does not serve",
            "The order is for the primary, and this node is not.",
            "`hafarm status` names the primary.",
            REFUSED,
        ),
        "HF1206": Code(
            "no heir",
            "No other node is in sync and ready: the service would end, and the only good copy with it.",
            "Wait until another node is in sync (`hafarm status -w`), or stop the module.",
            REFUSED,
        ),
        "HF1207": Code(
            "register does not answer",
            "A planned change needs the register, and would be stuck half-way without it.",
            "Bring the witness back and ask again. The service itself goes on.",
            REFUSED,
        ),
        "HF1210": Code(
            "promoted by an operator",
            "A copy that was not in sync serves by order; the other side's differing files are set aside.",
            "When the other node is back: `hafarm divergence list`.",
        ),
        "HF1211": Code("serves already", "The node that was to be promoted is primary.", _NOTHING, REFUSED),
        "HF1212": Code(
            "volume is not ready",
            "The module's replicator does not run on this node, or its disk failed.",
            "`hafarm start MODULE --node NODE`; if the disk failed, repair it first.",
            REFUSED,
        ),
        "HF1213": Code(
            "nothing to promote",
            "No record is known: this module was never started.",
            "`hafarm start MODULE --first NODE`, where NODE holds the files to begin with.",
            REFUSED,
        ),
        "HF1214": Code(
            "another node serves",
            "Promote is for a peer that is lost; here the peer is alive and serving.",
            "`hafarm swap MODULE`.",
            REFUSED,
        ),
        "HF1215": Code(
            "data would be lost",
            "This copy lacks writes that the other side acknowledged.",
            "Start a node that is in sync. Only if none will come back: "
            "`hafarm promote MODULE --node NODE --accept-data-loss`.",
            REFUSED,
        ),
        "HF1216": Code(
            "serving by order only",
            "This node serves by an operator's order and the register, which answers again, says otherwise.",
            "`hafarm promote MODULE --node NODE --accept-data-loss` once more keeps this side.",
        ),
        "HF1217": Code(
            "promotion needs the register",
            "Without the register another node in sync may be granted the role meanwhile: two histories.",
            "Bring the witness back, or order it again with --accept-data-loss.",
            REFUSED,
        ),
        "HF1218": Code(
            "register knows less than this node",
            "It was lost or restored from an old copy: what this node holds would have to become the record.",
            "Restore its newest state, or order it again with --accept-data-loss on the node to keep.",
            REFUSED,
        ),
        "HF1219": Code(
            "promotion given up",
            "It could not be carried out at once, and what the operator saw holds no more.",
            "`hafarm status MODULE`; `hafarm swap` when the other node serves, else order it again.",
        ),
        "HF1220": Code(
            "no such node",
            "The order names a node that this module does not have.",
            "`hafarm status MODULE` lists its nodes.",
            USAGE,
        ),
        "HF1221": Code("node missing", "Promote needs to know which node.", "Add --node NODE.", USAGE),
        "HF1222": Code(
            "no node follows",
            "Only a node that follows a primary can be resynchronised.",
            "`hafarm start MODULE` on the node that should follow.",
            REFUSED,
        ),
        "HF1223": Code("no such order", "The agent does not know this order.", "`hafarm --help`.", USAGE),
        "HF1224": Code(
            "no node in reach",
            "The agent hears no node of this module.",
            "Start the agents; `hafarm status` shows the paths.",
            UNREACHABLE,
        ),
        "HF1225": Code(
            "no node serves",
            "The order needs a primary, and there is none now.",
            "`hafarm status MODULE` says why.",
            REFUSED,
        ),
        "HF1226": Code(
            "node out of reach",
            "The node that must act does not answer.",
            "Start its agent, or repair the network; `hafarm status` shows the paths.",
            UNREACHABLE,
        ),
        "HF1230": Code(
            "not within its time",
            "The order was accepted, but the state it leads to was not reached in time; it may still be.",
            "`hafarm status -w` and `hafarm events` tell what it waits for.",
            TIMED_OUT,
        ),
        "HF1231": Code(
            "no such operation",
            "This agent does not know the operation: it was restarted, or the operation is long over.",
            "`hafarm status` shows what came of it.",
        ),
        "HF1232": Code(
            "no such module",
            "No module of that name is configured on this node.",
            "`hafarm status` lists the modules.",
            USAGE,
        ),
        "HF1233": Code(
            "no answer in time",
            "The node's machine did not answer the order in time.",
            "`hafarm events` on that node; a disk that hangs is the usual reason.",
            UNREACHABLE,
        ),
        # HF20: the register
        "HF2001": Code(
            "register refused",
            "The register understood the request and said no; asking again will not help.",
            "Check which bundle was copied to this node and which to the witness.",
        ),
        "HF2002": Code(
            "register does not answer",
            "Nothing stops, but no role can change until it answers. With a node lost too, writes are held.",
            "Bring the witness back: `hafarm witness serve` on its machine, and the network to it.",
            UNREACHABLE,
        ),
        "HF2003": Code(
            "bid without an answer",
            "It may or may not have been granted; it is asked again until a record proves it.",
            "Nothing, if it passes; else look at the network to the witness.",
        ),
        "HF2011": Code("register answers again", "Roles can change again.", _NOTHING),
        "HF2012": Code(
            "register was lost or restored",
            "The register knows less than this node: it was emptied or restored from an old copy. No role "
            "changes.",
            "Restore its newest state. If that is gone: `hafarm promote MODULE --node NODE "
            "--accept-data-loss`, NODE being the one that serves, else the one to keep.",
        ),
        "HF2020": Code(
            "witness state in use",
            "Another witness serves from the same directory; two would grant twice.",
            "Stop the other one, or give this one a directory of its own.",
        ),
        "HF2021": Code(
            "bid refused by the witness",
            "A bid that no state of the register could grant was turned away.",
            "The nodes' configurations differ: compare hafarm.yaml on all of them.",
        ),
        "HF2022": Code(
            "witness cannot serve",
            "The address, the bundle or the state directory cannot be used.",
            "The reason is beside it.",
        ),
        # HF30: addresses
        "HF3001": Code(
            "virtual IP",
            "The address could not be put on, or taken off, this node.",
            "Look whether the interface exists and whether another machine uses the address.",
        ),
        "HF3002": Code(
            "interface without carrier",
            "A network interface that carries a virtual IP lost its link.",
            "Look at the cable or switch; with `on_link_loss: move` the role moves.",
        ),
        "HF3003": Code(
            "address conflict",
            "Another machine answers for a virtual IP that this node holds.",
            "Find it by its hardware address and take the address away there.",
        ),
        "HF3004": Code(
            "address put back",
            "Somebody removed a virtual IP that this node holds; it was put back.",
            "Find out what removes it: a network manager that owns the interface is the usual one.",
        ),
        "HF3010": Code(
            "packet rules refused",
            "The kernel did not take our nftables rules, without which addresses have no lease.",
            "A kernel with nf_tables and the package nftables are needed, and the agent runs as root.",
        ),
        **COPIES,
        **FARMS,
        **PLANE,
        **CLOUDS,
        **PLATFORM,
        **REGISTERS,
        # HF50: who may talk to whom
        "HF5001": Code(
            "not who it must be",
            "The other end's certificate is of another node or another cluster.",
            "Check which bundle was copied to that machine.",
        ),
        "HF5002": Code(
            "bundle refused",
            "The directory with certificate and keys cannot be used, or must not be made.",
            "Copy this node's whole directory again from what `hafarm init` wrote.",
        ),
        "HF5003": Code(
            "heartbeats of another key",
            "What arrives from a peer's address was not made with this cluster's heartbeat key, or not for "
            "this machine, or was recorded and sent again; it is not heard.",
            "Copy both nodes' bundles from one and the same `hafarm init`, and start both agents anew; look "
            "whether a cloned machine runs.",
        ),
        "HF5004": Code(
            "heartbeats of another release",
            "The other node's hafarm speaks another version of the heartbeat, so the nodes do not hear each "
            "other and no role changes.",
            "Bring both nodes to the same release; `hafarm version` tells it.",
        ),
        "HF5005": Code(
            "two machines with one name",
            "Heartbeats of two lives come in one node's name: a cloned machine runs with its bundle.",
            "Stop the clone, and give it a bundle and a name of its own before it starts again.",
        ),
        # HF60: files and the command line
        "HF6001": Code(
            "configuration refused",
            "The file says something impossible, or something that hafarm does not know; nothing was "
            "changed.",
            "Mend each line that is named: FILE:LINE:COLUMN. `hafarm config schema` helps editors.",
            USAGE,
        ),
        "HF6002": Code(
            "agent does not answer",
            "The command line speaks to this node's agent, and nobody answers on its socket.",
            "Start it (`systemctl start hafarm-agent`), be root, or name its socket with --socket.",
            UNREACHABLE,
        ),
        "HF6003": Code(
            "another cluster",
            "The agent that answers belongs to another cluster than --cluster says; nothing was asked of it.",
            "Go to a node of that cluster, or leave --cluster away.",
            REFUSED,
        ),
        "HF6004": Code(
            "not confirmed",
            "An order that loses data needs the module's name typed, or --yes.",
            "Ask again and confirm.",
            REFUSED,
        ),
        "HF6005": Code("no such code", "No message has this code.", "`hafarm explain` lists all.", USAGE),
        "HF6006": Code(
            "still under way",
            "The order was accepted and is not finished within --wait; it goes on.",
            "`hafarm status -w` shows it.",
            TIMED_OUT,
        ),
        "HF6010": Code(
            "demonstration cannot run",
            "It needs network namespaces, mount namespaces and /dev/fuse on this machine.",
            "Run it as root on Linux 5.10 or later, outside a container that forbids namespaces.",
            USAGE,
        ),
        "HF6007": Code(
            "machine is not ready",
            "This node lacks something that the configuration needs.",
            "Mend what is marked with `fail`, and check again.",
            DIFFERS,
        ),
        "HF6009": Code(
            "something is to be mended",
            "`hafarm doctor` found what would disturb this node, or the cluster, on the day it is needed.",
            "Mend what is marked with `fail`: the line below it says how; then ask again.",
            DIFFERS,
        ),
        "HF6008": Code(
            "agent's answer not understood",
            "The agent speaks another version of the API than this command.",
            "Restart the agent after an upgrade (`systemctl restart hafarm-agent`): services go on.",
        ),
    }
)


def shown(code: str, message: str, why: str = "", fix: str = "") -> str:
    """An error as every process and command prints it: what, why, what to do, where to read on."""
    known = CODES.get(code)
    lines = [f"error {code}: {message}"]
    if why or known:
        lines.append(f"  why: {why or (known.meaning if known else '')}")
    if fix or known:
        lines.append(f"  fix: {fix or (known.remedy if known else '')}")
    return "\n".join([*lines, f"  more: hafarm explain {code}"])
