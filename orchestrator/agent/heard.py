"""What a replicator says, in the machine's words and in people's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.model import events as ev
from orchestrator.model.names import NodeName, Nonce
from orchestrator.model.record import Record


def of_a_copy(message: Mapping[str, Any]) -> str:
    how = "compared in full" if message.get("full") else "brought up to date by its log"
    why = f" ({message['why']})" if message.get("why") else ""
    return f"{message['peer']} is {how}: {message['verdict']}{why}"


def of_two_histories(message: Mapping[str, Any]) -> str:
    peer = message["peer"]
    verdict = message["verdict"]
    return f"{peer} has what this side has not ({verdict}): what differs there is kept aside on {peer}"


def of_a_slow_peer(facts: Mapping[str, Any]) -> str:
    """How long its disk takes for what an application waits for; also for the screen."""
    usual = f", usually {facts['usual_s'] * 1000:.0f} ms" if facts["usual_s"] else ""
    return f"slow: up to {facts['took_s']:.1f} s until a synced write is on its disk{usual}"


def of_a_long_log(message: Mapping[str, Any]) -> str:
    return f"{message['peer']} lacks more changes than are kept one by one: directories are compared whole"


def of_a_hung_disk(facts: Mapping[str, Any]) -> str:
    return f"the disk of this node has not answered for {facts['waited_s']:.0f} s"


def translated(module: Any, message: Mapping[str, Any]) -> ev.Event | None:
    """A line of the replicator as an event; None for what is only shown."""
    match message.get("event"):
        case "reign_taken":
            return ev.ReignTaken(module, Record.from_dict(message["record"]))
        case "gate_closed":
            return ev.GateClosed(module, frozenset(NodeName(name) for name in message["equal"]))
        case "reign_offered":
            return ev.ReignOffered(module, Record.from_dict(message["record"]))
        case "stream_up":
            return ev.StreamUp(module, NodeName(message["peer"]))
        case "stream_down":
            return ev.StreamDown(module, NodeName(message["peer"]), str(message.get("why", "")))
        case "member_lost":
            return ev.MemberLost(module, NodeName(message["peer"]), str(message.get("why", "")))
        case "member_ready":
            return ev.MemberReady(module, NodeName(message["peer"]), Nonce(str(message["life"])))
        case "handshake_refused":
            return ev.HandshakeRefused(
                module, NodeName(message["peer"]), str(message["verdict"]), str(message.get("why", ""))
            )
        case "aside":
            return ev.SetAside(module, len(message["divergences"]))
        case "volume_failed":
            return ev.VolumeFailed(module, str(message["why"]))
        case _:
            return None
