"""What a client sees when nodes and processes die, and when nothing dies but the machine is busy."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.keepalived import Pair
from tests.bench.rig import Served
from tests.bench.rounds import Void

ALONE_S = 30.0
QUIET_S = 1.0
"""After the loss nobody asks the agent anything: an answer takes it as long as half of what is measured."""
FROZEN_S = 1.0
"""Longer than any lease that is measured; shorter than the three seconds after which it is ended."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One node's loss as the client saw it."""

    gap_s: float
    decided_to_reply_ms: float


def lose(served: Served) -> Loss:
    """SIGKILL to all processes of the primary, its links down, its file system shut down; then it returns."""
    served.await_redundant()
    gone = served.primary()
    heir = served.other(gone)
    wall = time.time()
    try:
        with served.probed() as probed:
            begin = time.monotonic()
            served.cluster.lose(gone)
            time.sleep(QUIET_S)
            settled = lambda: served.story.role(heir)[0] == "ALONE" or not served.is_member(heir)  # noqa: E731
            served.story.await_true("the other node serves", settled, ALONE_S)
            if not served.is_member(heir):
                raise Void(f"{heir} had been given up as a member just before: nobody can take over")
    finally:
        served.cluster.bring_back(gone)
        served.await_redundant()
    since, until = probed.gap(begin)
    # The role changes in the step that learns that the bid is won: from there on the decision is carried out.
    won = min(event["at"] for event in served.events(heir, "HF1100", wall) if " to ALONE" in event["text"])
    return Loss(until - since, 1000 * (until + time.time() - time.monotonic() - won))


def swap(served: Served) -> float:
    """A planned swap, as an operator orders it: the client's gap in seconds, the application's share too."""
    source = served.primary()
    with served.probed() as probed:
        begin = time.monotonic()
        served.cluster.act(source, action="swap")
        other = served.other(source)
        served.story.await_true("the swap", lambda: served.story.role(other) == ("PRIM", "ready"), ALONE_S)
    served.await_redundant()
    since, until = probed.gap(begin)
    return until - since


def silence_after_freeze(served: Served) -> float:
    """The primary's pulse is stopped: for how long the address is still answered there."""
    node = served.primary()
    return _silence(served, node, served.pids(node, "orchestrator.pulse"), signal.SIGSTOP)


def silence_after_death(served: Served) -> float:
    """The primary's pulse is killed and nobody starts it again: for how long the address is answered."""
    node = served.primary()
    agent, pulse = (served.pids(node, room) for room in ("orchestrator.agent", "orchestrator.pulse"))
    return _silence(served, node, [*agent, *pulse], signal.SIGKILL)


def _silence(served: Served, node: str, pids: list[int], last: signal.Signals) -> float:
    """Stop all but the last process, give the last its signal; undo it once the lease is over."""
    with served.probed() as probed:
        try:
            for pid in pids[:-1]:
                os.kill(pid, signal.SIGSTOP)
            begin = time.monotonic()
            os.kill(pids[-1], last)
            time.sleep(FROZEN_S)
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        served.await_redundant()
    answered = probed.report["last_of"]
    assert max(answered.values()) > answered[node], "the address was never silent there"
    return float(answered[node] - begin)


def restart_agent(served: Served) -> float:
    """The primary's agent is killed and started again: the probes that had no reply, as seconds."""
    node = served.primary()
    with served.probed() as probed:
        for pid in served.pids(node, "orchestrator.agent"):
            os.kill(pid, signal.SIGKILL)
        served.cluster.start_agent(node)
        served.await_redundant()
    assert served.primary() == node, "the agent's restart cost its node the role"
    return probed.lost_s


def roles_taken(served: Served, since: float) -> list[str]:
    """Each change of role on any node since then (seconds since the epoch), in words."""
    return [
        f"{node}: {event['text']}"
        for node in served.cluster.names
        for event in served.events(node, "HF1100", since)
    ]


def keepalived_gap(advert: float, answer: Path) -> float:
    """The rival's gap after the loss of its master, on two nodes of its own."""
    with Pair(advert, answer) as pair:
        master = pair.await_master()
        return pair.gap_of(lambda: pair.lose(master))
