"""The faults, each with a name, what it does, and what it undoes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from tests.chaos.rig import Rig

Undo = Callable[[], None]
Blind = Literal["", "deaf", "helpless"]
"""Until the fault is over the old side cannot learn that it was replaced, or nobody is there to act on it."""


@dataclass(frozen=True)
class Fault:
    """One way to hurt a cluster; `strike` gives what heals it."""

    kind: str
    target: str
    """Whom it hits: `prim`, `second`, `both`, `witness`, `all`, or a direction."""
    strike: Callable[[Rig, str, str], Undo]
    hold_s: tuple[float, float]
    """For how long, from the shortest to the longest."""
    blind: Blind = ""

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.target}"


BRIEF = (0.2, 3.0)
"""From less than T, so that a return falls into the middle of a take-over, to well beyond it."""
LONG = (7.0, 8.0)
"""Longer than every time-out that judges a process: agent_grace, ack_timeout and a hung replicator, 5 s each
and looked at every second."""
ACTED_S = 1.5
"""Three times T at `lan`, for a machine that is busy."""
AT_ONCE = (0.0, 0.1)
"""Nothing to undo: somebody of ours must start it again."""


def power_cut(*targets: str) -> Callable[[Rig, str, str], Undo]:
    """The cable is dead, what was not synced is gone, and so is every process."""

    def strike(rig: Rig, prim: str, second: str) -> Undo:
        nodes = resolve(targets, prim, second)
        at_once(rig.cluster.lose, nodes)
        return lambda: at_once(rig.cluster.bring_back, nodes)

    return strike


def kill_node(*targets: str) -> Callable[[Rig, str, str], Undo]:
    """SIGKILL to everything; addresses, mounts and page cache stay behind, as after no power cut."""

    def strike(rig: Rig, prim: str, second: str) -> Undo:
        nodes = resolve(targets, prim, second)
        at_once(rig.kill_everything, nodes)
        return lambda: at_once(rig.start_processes, nodes)

    return strike


def kill(target: str, what: str) -> Callable[[Rig, str, str], Undo]:
    """SIGKILL to one of our processes, or to all of the application's."""

    def strike(rig: Rig, prim: str, second: str) -> Undo:
        (node,) = resolve((target,), prim, second)
        rig.signal(node, what, signal.SIGKILL)

        def undo() -> None:
            # The agent and the witness have a service manager above them, the others have the agent.
            if what in ("agent", "witness") and not rig.pids(node, what):
                rig.start_processes(node)

        return undo

    return strike


def stop(target: str, what: str) -> Callable[[Rig, str, str], Undo]:
    """SIGSTOP: it neither runs nor dies, and its sockets stay open."""

    def strike(rig: Rig, prim: str, second: str) -> Undo:
        (node,) = resolve((target,), prim, second)
        stopped = rig.signal(node, what, signal.SIGSTOP)

        def undo() -> None:
            for pid in stopped:
                with suppress(ProcessLookupError):  # killed meanwhile, as a hung one should be
                    os.kill(pid, signal.SIGCONT)

        return undo

    return strike


def cut(*directions: tuple[str, str]) -> Callable[[Rig, str, str], Undo]:
    """Nothing passes from the first to the second of each pair."""

    def strike(rig: Rig, prim: str, second: str) -> Undo:
        for source, target in directions:
            rig.cluster.network.cut(*resolve((source, target), prim, second))
        return rig.cluster.heal

    return strike


def unplug(target: str) -> Callable[[Rig, str, str], Undo]:
    """The machine's cable is out, and the machine sees it."""

    def strike(rig: Rig, prim: str, second: str) -> Undo:
        (node,) = resolve((target,), prim, second)
        rig.cluster.unplug(node)
        return lambda: rig.cluster.plug(node)

    return strike


def resolve(targets: Iterable[str], prim: str, second: str) -> list[str]:
    roles = {"prim": prim, "second": second}
    return [roles.get(target, target) for target in targets]


def at_once(deed: Callable[[str], None], nodes: list[str]) -> None:
    """To all of them in the same moment; a fault of one is ours."""
    failures: list[BaseException] = []

    def guarded(node: str) -> None:
        try:
            deed(node)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


P, S, W = "prim", "second", "witness"

FAULTS: tuple[Fault, ...] = (
    Fault("power-cut", "prim", power_cut(P), BRIEF),
    Fault("power-cut", "second", power_cut(S), BRIEF),
    Fault("power-cut", "witness", power_cut(W), BRIEF),
    Fault("power-cut", "both", power_cut(P, S), BRIEF),
    Fault("power-cut", "all", power_cut(P, S, W), BRIEF),
    Fault("kill-node", "prim", kill_node(P), BRIEF),
    Fault("kill-node", "second", kill_node(S), BRIEF),
    Fault("kill-node", "witness", kill_node(W), BRIEF),
    Fault("kill-node", "both", kill_node(P, S), BRIEF),
    Fault("cut-one-way", "prim-to-second", cut((P, S)), BRIEF),
    Fault("cut-one-way", "second-to-prim", cut((S, P)), BRIEF),
    Fault("cut-one-way", "prim-to-witness", cut((P, W)), BRIEF),
    Fault("cut-one-way", "witness-to-prim", cut((W, P)), BRIEF),
    Fault("cut-both-ways", "prim-second", cut((P, S), (S, P)), BRIEF),
    Fault("cut-both-ways", "prim-witness", cut((P, W), (W, P)), BRIEF),
    # Clients still reach it: it must fall silent by itself, and it hears of no successor.
    Fault("cut-both-ways", "prim-alone", cut((P, S), (S, P), (P, W), (W, P)), BRIEF, blind="deaf"),
    Fault("unplug", "prim", unplug(P), BRIEF, blind="deaf"),
    Fault("unplug", "second", unplug(S), BRIEF),
    Fault("kill-agent", "prim", kill(P, "agent"), (0.0, 7.0), blind="helpless"),
    Fault("kill-agent", "second", kill(S, "agent"), (0.0, 7.0)),
    Fault("kill-pulse", "prim", kill(P, "pulse"), AT_ONCE),
    Fault("kill-pulse", "second", kill(S, "pulse"), AT_ONCE),
    Fault("kill-replicator", "prim", kill(P, "replicator"), AT_ONCE),
    Fault("kill-replicator", "second", kill(S, "replicator"), AT_ONCE),
    Fault("kill-keeper", "prim", kill(P, "keeper"), AT_ONCE),
    Fault("kill-keeper", "second", kill(S, "keeper"), AT_ONCE),
    Fault("kill-application", "prim", kill(P, "application"), AT_ONCE),
    Fault("stop-agent", "prim", stop(P, "agent"), LONG, blind="helpless"),
    Fault("stop-agent", "second", stop(S, "agent"), LONG),
    Fault("stop-pulse", "prim", stop(P, "pulse"), LONG),
    Fault("stop-pulse", "second", stop(S, "pulse"), LONG),
    Fault("stop-replicator", "prim", stop(P, "replicator"), LONG),
    Fault("stop-replicator", "second", stop(S, "replicator"), LONG),
    Fault("stop-keeper", "prim", stop(P, "keeper"), LONG),
    Fault("stop-keeper", "second", stop(S, "keeper"), LONG),
    Fault("stop-application", "prim", stop(P, "application"), LONG),
    Fault("stop-witness", "witness", stop(W, "witness"), LONG),
)
BY_NAME = {fault.name: fault for fault in FAULTS}


def named(*names: str) -> list[Fault]:
    """These faults, held for longer than T: whoever can act has the time to."""
    return [
        replace(fault, hold_s=(max(fault.hold_s[0], ACTED_S), fault.hold_s[1]))
        if fault.hold_s == BRIEF
        else fault
        for fault in map(BY_NAME.__getitem__, names)
    ]


KINDS = tuple(dict.fromkeys(fault.kind for fault in FAULTS))
