"""A cluster-wide wish becomes orders to single nodes, in the order in which they are safe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from orchestrator.model.names import NodeName
from orchestrator.model.orders import (
    Drain,
    Leave,
    Order,
    Promote,
    Restart,
    Resync,
    Start,
    Stop,
    Swap,
    Undrain,
    Weigh,
)
from orchestrator.model.report import AnyState, FarmRole, FarmState, ModuleState, Phase, Role


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator asked for one module, as the API takes it."""

    action: str
    node: NodeName | None = None
    first: NodeName | None = None
    to: NodeName | None = None
    accept_data_loss: bool = False
    adopt: bool = False
    force: bool = False
    limit_s: float | None = None
    """Of a drain: how long connections may go on; None: the module's own."""
    percent: int | None = None
    """Of a weight: how much of what the file gives."""
    budget_s: float | None = None
    """Of a comparison: how long it may take now; it goes on there the next time."""


@dataclass(frozen=True, slots=True)
class Step:
    """One order to one node; `awaits` names the state to wait for before the next step."""

    node: NodeName
    order: Order
    awaits: str = ""
    serial: int = 0
    """Of a farm's node: how far its words had come before."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing is begun."""

    code: str
    text: str


States = Mapping[NodeName, ModuleState | None]
"""Each node of the module as it was last heard; None: out of reach."""

FarmStates = Mapping[NodeName, FarmState | None]
AnyStates = States | FarmStates

SERVING = (Role.PRIM, Role.ALONE)


def plan(wish: Wish, nodes: tuple[NodeName, ...], states: AnyStates) -> list[Step] | Refusal:
    """The steps of a wish, or why it cannot be begun. What only the node can know, it refuses itself."""
    for name in (wish.node, wish.first, wish.to):
        if name is not None and name not in nodes:
            return Refusal("HF1220", f"{name} is no node of this module; these are: {', '.join(nodes)}")
    if any(isinstance(state, FarmState) for state in states.values()):
        return _farm(wish, nodes, states)
    return _mirror(wish, nodes, {name: state for name, state in states.items() if _is_mirror(state)})


def _is_mirror(state: AnyState | None) -> TypeGuard[ModuleState | None]:
    return not isinstance(state, FarmState)


def _farm(wish: Wish, nodes: tuple[NodeName, ...], states: AnyStates) -> list[Step] | Refusal:
    heard = [name for name in nodes if states.get(name) is not None]
    chosen = [wish.node] if wish.node is not None else heard
    match wish.action:
        case "start":
            steps = [Step(name, Start(first=wish.first is not None), "serving") for name in chosen]
        case "stop" if wish.node is not None:
            steps = [Step(wish.node, Leave(wish.force), "stopped")]
        case "stop":
            steps = [Step(name, Stop(), "stopped") for name in chosen]
        case "restart":
            # One after the other: each is back before the next one leaves.
            steps = [Step(name, Restart(), "serving again", _serial(states.get(name))) for name in chosen]
        case "drain" | "undrain" | "weight" if wish.node is None:
            return Refusal("HF6031", f"{wish.action} needs the node: --node NODE")
        case "drain":
            steps = [Step(chosen[0], Drain(wish.limit_s, wish.force), "stopped")]
        case "undrain":
            steps = [Step(chosen[0], Undrain(), "serving")]
        case "weight":
            steps = [Step(chosen[0], Weigh(100 if wish.percent is None else wish.percent))]
        case other:
            return Refusal(
                "HF6029", f"{other} is for mirrors: all nodes of a farm serve, and it has no files"
            )
    return _reachable(steps, states)


def _mirror(wish: Wish, nodes: tuple[NodeName, ...], states: States) -> list[Step] | Refusal:
    match wish.action:
        case "start":
            return _start(wish, nodes, states)
        case "stop":
            return _stop(wish, nodes, states)
        case "restart":
            return _at_primary(states, Restart(), "restarted")
        case "swap":
            return _at_primary(states, Swap(wish.to), "swapped")
        case "promote":
            if wish.node is None:
                return Refusal("HF1221", "promote needs the node: --node NODE")
            return _reachable([Step(wish.node, Promote(wish.accept_data_loss), "serving")], states)
        case "resync":
            chosen = (
                [wish.node] if wish.node else [name for name in nodes if _role(states, name) is Role.SECOND]
            )
            steps = [Step(name, Resync(wish.adopt)) for name in chosen]
            return _reachable(steps, states) if steps else Refusal("HF1222", "no node follows a primary now")
        case "drain" | "undrain" | "weight":
            return Refusal("HF6029", f"{wish.action} is for farms: one node of a mirror serves")
        case other:
            return Refusal("HF1223", f"no action is named {other!r}")


def _start(wish: Wish, nodes: tuple[NodeName, ...], states: States) -> list[Step] | Refusal:
    if wish.first is not None:
        first = Step(wish.first, Start(first=True), "serving")
        return _reachable([first, *(Step(name, Start()) for name in nodes if name != wish.first)], states)
    chosen = [wish.node] if wish.node else [name for name in nodes if states.get(name) is not None]
    if not chosen:
        return Refusal("HF1224", "no node of this module is in reach")
    return _reachable([Step(name, Start(), "started") for name in chosen], states)


def _stop(wish: Wish, nodes: tuple[NodeName, ...], states: States) -> list[Step] | Refusal:
    if wish.node is not None:
        return _reachable([Step(wish.node, Leave(wish.force), "stopped")], states)
    # The primary first: what it drains on its way out must find its members alive.
    heard = [name for name in nodes if states.get(name) is not None]
    ordered = sorted(heard, key=lambda name: _role(states, name) not in SERVING)
    return [Step(name, Stop(), "stopped") for name in ordered]


def _at_primary(states: States, order: Order, awaits: str) -> list[Step] | Refusal:
    for name in states:
        if _role(states, name) in SERVING:
            return [Step(name, order, awaits)]
    return Refusal("HF1225", "no node serves this module now")


def _reachable(steps: list[Step], states: AnyStates) -> list[Step] | Refusal:
    for step in steps:
        if states.get(step.node) is None:
            return Refusal("HF1226", f"{step.node} is out of reach: its agent must take part")
    return steps


def _role(states: States, name: NodeName) -> Role | None:
    state = states.get(name)
    return state.role if state else None


def reached(step: Step, states: AnyStates) -> bool:
    """Whether what the step awaits is so."""
    own = states.get(step.node)
    if isinstance(own, FarmState):
        return _farm_reached(step, own)
    return _mirror_reached(step, {name: state for name, state in states.items() if _is_mirror(state)})


def _farm_reached(step: Step, own: FarmState) -> bool:
    match step.awaits:
        case "serving":
            return own.role is FarmRole.UP and own.phase in (Phase.READY, Phase.DEGRADED)
        case "serving again":
            # It left, at least one word, and came back, another.
            back = own.role is FarmRole.UP and own.phase in (Phase.READY, Phase.DEGRADED)
            return back and own.serial >= step.serial + 2
        case "stopped":
            return own.role is FarmRole.STOP
        case _:
            return True


def _serial(state: AnyState | None) -> int:
    return state.serial if isinstance(state, FarmState) else 0


def _mirror_reached(step: Step, states: States) -> bool:
    own = states.get(step.node)
    match step.awaits:
        case "serving":
            return own is not None and own.role in SERVING and own.phase in (Phase.READY, Phase.DEGRADED)
        case "started":
            return own is not None and own.role is not Role.STOP
        case "stopped":
            return own is not None and own.role is Role.STOP and own.phase is Phase.NOT_READY
        case "swapped":
            return (
                own is not None
                and own.role not in SERVING
                and any(_is_ready(state) for state in states.values())
            )
        case "restarted":
            return own is not None and _is_ready(own)
        case _:
            return True


def _is_ready(state: ModuleState | None) -> bool:
    return state is not None and state.role in SERVING and state.phase in (Phase.READY, Phase.DEGRADED)


_FIELDS: Final[Mapping[str, Any]] = {"to": str | None, "limit_s": int | float | None, "percent": int}
"""What is no yes or no."""


def order_as_dict(order: Order) -> dict[str, Any]:
    """An order as it travels to another node's agent."""
    fields = {name: getattr(order, name) for name in order.__dataclass_fields__}
    return {"kind": type(order).__name__, **fields}


def order_from_dict(data: Mapping[str, Any]) -> Order:
    """ValueError when it is none."""
    kinds: dict[str, type[Any]] = {
        kind.__name__: kind
        for kind in (Start, Stop, Leave, Restart, Swap, Promote, Resync, Drain, Undrain, Weigh)
    }
    kind = kinds.get(str(data.get("kind")))
    if kind is None:
        raise ValueError(f"no order is named {data.get('kind')!r}")
    fields = {name: value for name, value in data.items() if name != "kind"}
    for name, value in fields.items():
        fits = isinstance(value, _FIELDS.get(name, bool)) and (name != "percent" or value is not True)
        if name not in kind.__dataclass_fields__ or not fits:
            raise ValueError(f"{kind.__name__} has no {name} = {value!r}")
    order: Order = kind(**fields)
    return order
