"""The application and its traffic: it opens after the application is ready, and closes before it stops."""

from __future__ import annotations

from typing import Final

from orchestrator.farm import sharing
from orchestrator.farm.state import Ending, Stage
from orchestrator.farm.turn import Turn
from orchestrator.model.effects import CountConnections, StartApplication, StopApplication, StoreFarm, Unsteer
from orchestrator.model.names import NEVER
from orchestrator.model.report import FarmRole

RETRY_S: Final = 1.0
"""Before an application that died is started again."""
REST_S: Final = 30.0
"""Between attempts once the restart budget is spent: slow enough to be read; the others serve meanwhile."""
REFUSED_S: Final = 5.0
"""Before traffic is let in again where the kernel or another machine refused it."""
COUNT_S: Final = 0.5
"""Between two counts of the connections of a node that drains: what nobody waits for longer to be noticed."""


def store(turn: Turn) -> None:
    """What an operator wanted outlives the agent."""
    farm = turn.farm
    turn.do(StoreFarm(farm.module, farm.wanted, farm.percent, farm.draining == "stop"))


def go_on(turn: Turn) -> None:
    """Towards a node that takes traffic, one step after the other."""
    farm = turn.farm
    if turn.is_due(farm.again_at):
        turn.set(again_at=None, trouble="")
        if farm.failed:
            _try_again(turn)
        if farm.stage is Stage.RESTING:
            turn.set(stage=Stage.IDLE)
    farm = turn.farm
    if farm.wanted and farm.role is FarmRole.STOP:
        turn.become(FarmRole.WAIT)
    if farm.wanted and farm.stage is Stage.IDLE:
        turn.set(stage=Stage.STARTING)
        turn.do(StartApplication(farm.module, NEVER))
    ready = farm.stage is Stage.READY and not farm.links_down and farm.again_at is None
    if ready and farm.settled and turn.farm.role is FarmRole.WAIT:
        turn.become(FarmRole.UP)
    keep_draining(turn)


def failed(turn: Turn, effect: str, why: str) -> None:
    """A deed failed; it is tried again, and nothing else waited for it."""
    turn.tell("HF1002" if effect == "StoreFarm" else "HF1114", f"{effect} failed: {why}")
    turn.set(failed=turn.farm.failed | {effect})
    if turn.farm.again_at is None:
        turn.set(again_at=turn.later(REFUSED_S))


def _try_again(turn: Turn) -> None:
    farm = turn.farm
    turn.set(failed=frozenset())
    if "StoreFarm" in farm.failed:
        store(turn)
    if "Unsteer" in farm.failed and farm.role is not FarmRole.UP:
        turn.do(Unsteer(farm.module))
    if "StopApplication" in farm.failed and farm.stage is Stage.ENDING:
        turn.do(StopApplication(farm.module, force=False))


def application_started(turn: Turn) -> None:
    """It runs; where it has checks, they say when it is ready."""
    if turn.farm.stage is Stage.STARTING:
        turn.set(stage=Stage.CHECKING if turn.farm.checked else Stage.READY)
        turn.tell("HF1102", "the application runs")


def checks_passed(turn: Turn) -> None:
    """Every check was good once."""
    if turn.farm.stage is Stage.CHECKING:
        turn.set(stage=Stage.READY)


def application_failed(turn: Turn, why: str) -> None:
    """It died, or did not start: the others have its traffic while it is started again."""
    if turn.farm.stage not in (Stage.STARTING, Stage.CHECKING, Stage.READY):
        return
    turn.tell("HF1110", f"the application failed: {why}")
    close(turn)
    _rest(turn)


def _rest(turn: Turn) -> None:
    """Start again soon while the budget lasts, then slowly; not at all where it was to stop anyway."""
    farm = turn.farm
    if farm.draining == "stop" or not farm.wanted:
        _stopped(turn)
        return
    budget, allowed = farm.budget.spend(turn.now)
    delay_s = RETRY_S if allowed else REST_S
    turn.set(budget=budget, worn=not allowed, stage=Stage.RESTING, again_at=turn.later(delay_s), draining="")


def check_failed(turn: Turn, check: str, action: str) -> None:
    """A check's verdict on the running application."""
    if turn.farm.stage not in (Stage.CHECKING, Stage.READY):
        return
    turn.tell("HF1111", f"check {check} failed: {action}")
    match action:
        case "restart":
            budget, allowed = turn.farm.budget.spend(turn.now)
            turn.set(budget=budget, worn=not allowed)
            end(turn, "stop" if turn.farm.draining == "stop" else "restart")
        case "stop":
            turn.set(wanted=False)
            store(turn)
            end(turn, "stop")
        case _:
            pass


def close(turn: Turn) -> None:
    """No traffic comes here from now on; those who are still connected are reset."""
    if turn.farm.role is not FarmRole.UP:
        return
    turn.become(FarmRole.WAIT)
    turn.set(
        steering=0,
        steered=0,
        ordered=None,
        fading=(),
        fading_until=None,
        drain_until=None,
        count_at=None,
        connections=None,
    )
    turn.do(Unsteer(turn.farm.module))


def end(turn: Turn, ending: Ending) -> None:
    """Stop the application, after its traffic."""
    close(turn)
    turn.set(stage=Stage.ENDING, ending=ending, again_at=None, trouble="")
    turn.do(StopApplication(turn.farm.module, force=False))


def application_stopped(turn: Turn, clean: bool) -> None:
    """Nothing of it lives any more."""
    farm = turn.farm
    if farm.stage is not Stage.ENDING:
        return
    if not clean:
        turn.tell("HF1112", "the application did not stop in its time and was killed")
    if farm.ending == "stop":
        _stopped(turn)
    else:
        turn.set(ending="", draining="", stage=Stage.IDLE)
        if farm.worn:
            turn.set(stage=Stage.RESTING, again_at=turn.later(REST_S))


def _stopped(turn: Turn) -> None:
    drained = turn.farm.draining == "stop"
    turn.set(stage=Stage.IDLE, ending="", draining="", again_at=None)
    if drained:
        turn.set(wanted=False)
        store(turn)
    if turn.farm.role is FarmRole.WAIT:
        turn.become(FarmRole.STOP)
    turn.tell("HF1106", "stopped")


def steered(turn: Turn, number: int) -> None:
    """The kernel does as it was told."""
    if turn.farm.role is FarmRole.UP and turn.farm.steered < number <= turn.farm.steering:
        turn.set(steered=number)


def steering_failed(turn: Turn, why: str) -> None:
    """This node cannot take its share: the others have it, and it tries again."""
    if turn.farm.role is FarmRole.UP:
        turn.tell("HF6024", f"no traffic is let in: {why}")
        close(turn)
        turn.set(trouble=why, again_at=turn.later(REFUSED_S))


def link_lost(turn: Turn, interface: str) -> None:
    """Nobody reaches this node there; the application goes on, for the time when the link is back."""
    turn.set(links_down=turn.farm.links_down | {interface})
    turn.tell("HF3002", f"interface {interface} has no carrier")
    close(turn)


# --- draining ----------------------------------------------------------------------------------------------


def drain(turn: Turn, then: Ending, limit_s: float) -> None:
    """Take nothing new; end when nothing is left, or the limit is over."""
    turn.set(draining=then, drain_until=turn.later(limit_s), count_at=None, connections=None)
    store(turn)


def keep_draining(turn: Turn) -> None:
    """Count what is left, once nobody sends anything new here."""
    farm = turn.farm
    if not farm.draining or farm.role is not FarmRole.UP:
        return
    if turn.is_due(farm.drain_until):
        if farm.connections:
            turn.tell(
                "HF6025",
                f"the drain's limit is over with {farm.connections} connections left: they are reset",
            )
        end(turn, farm.draining)
    elif farm.count_at is None:
        if _is_given_up(turn):
            turn.set(count_at=turn.later(COUNT_S))
    elif turn.is_due(farm.count_at):
        turn.set(count_at=turn.later(COUNT_S))
        turn.do(CountConnections(farm.module))


def _is_given_up(turn: Turn) -> bool:
    """No kernel of those in reach sends anything new here."""
    farm = turn.farm
    if not farm.settled or farm.me in farm.committed.names or farm.steered != farm.steering:
        return False
    return sharing.is_done(farm)


def connections_counted(turn: Turn, count: int) -> None:
    """What is left of a drain."""
    if turn.farm.draining and turn.farm.count_at is not None:
        turn.set(connections=count)
        if not count:
            end(turn, turn.farm.draining)
