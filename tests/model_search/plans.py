"""Which searches there are: where each begins, what may happen in it, and how long it may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from orchestrator.model.names import NodeName
from orchestrator.model.orders import Leave, Promote, Start, Stop, Swap
from tests.model_search.begin import healthy, joining, two_histories, virgin
from tests.model_search.moves import Bounds
from tests.model_search.search import Search
from tests.model_search.values import World

NODES: Final = (NodeName("a"), NodeName("b"), NodeName("c"))
DEFAULT_S: Final = 30.0
"""CPU seconds after which a search ends unexhausted: the default ones together stay below five minutes."""
DEEP_S: Final = 900.0
"""The four deep ones together: an hour."""


@dataclass(frozen=True)
class Plan:
    """One search."""

    name: str
    levels: tuple[str, ...]
    nodes: int
    starts: Callable[[Search], World]
    bounds: Bounds
    seconds: float = DEFAULT_S

    @property
    def names(self) -> tuple[NodeName, ...]:
        return NODES[: self.nodes]


TEST: Final = ("test", "quick", "default", "deep")
QUICK: Final = ("quick", "default", "deep")
DEFAULT: Final = ("default", "deep")
DEEP: Final = ("deep",)
CUT: Final = ("power",)
ONE: Final = Bounds(epochs=1, writes=1, crashes=0, losses=0)
STOPS: Final = ONE.with_(hints=1, orders=2, ordered=(Stop(), Start(), Leave()))
SWAP: Final = ONE.with_(hints=1, orders=1, ordered=(Swap(),))
TWO: Final = ONE.with_(outages=1, deaths=CUT, ordered=(Promote(True),))
"""The order and the death were on the way to where it begins, and come no second time."""

PLANS: Final[tuple[Plan, ...]] = (
    Plan("suspicion", TEST, 2, healthy, Bounds(epochs=2, writes=1, crashes=0, losses=1)),
    Plan("swap", TEST, 2, healthy, SWAP),
    Plan("death", QUICK, 2, healthy, ONE.with_(crashes=1)),
    Plan("joiner and power cut", QUICK, 2, joining, ONE.with_(crashes=1, deaths=CUT)),
    Plan("joiner and suspicion", DEFAULT, 2, joining, ONE.with_(epochs=2, losses=1)),
    Plan("joiner and dead keeper", DEFAULT, 2, joining, ONE.with_(crashes=1, deaths=("keeper",))),
    Plan("two writes", DEFAULT, 2, healthy, ONE.with_(writes=2, losses=1)),
    Plan("late answers", DEFAULT, 2, healthy, ONE.with_(losses=1, outages=1, late_reads=True)),
    Plan("swap and suspicion", DEFAULT, 2, healthy, SWAP.with_(losses=1)),
    Plan("swap and dead agent", DEFAULT, 2, healthy, SWAP.with_(crashes=1, deaths=("agent",))),
    Plan("stops and starts", DEFAULT, 2, healthy, STOPS),
    Plan(
        "forced promotion",
        DEFAULT,
        2,
        joining,
        ONE.with_(losses=1, hints=1, orders=1, ordered=(Promote(True),)),
        60.0,
    ),
    Plan("two histories", QUICK, 2, two_histories, TWO.with_(losses=1)),
    Plan("two histories, three", TEST, 3, two_histories, TWO),
    Plan("register wiped", DEFAULT, 2, joining, ONE.with_(losses=1, wipes=1)),
    Plan("two first starts", DEFAULT, 2, virgin, ONE.with_(hints=2, orders=2, ordered=(Start(first=True),))),
    Plan("three, suspicion", DEFAULT, 3, healthy, ONE.with_(losses=1)),
    Plan("three, power cut", DEFAULT, 3, healthy, ONE.with_(crashes=1, deaths=CUT), 45.0),
    Plan("deaths and suspicion", DEEP, 2, healthy, ONE.with_(epochs=2, crashes=1, losses=1), DEEP_S),
    Plan("two deaths", DEEP, 2, joining, ONE.with_(crashes=2, writes=2), DEEP_S),
    Plan("three, two epochs", DEEP, 3, healthy, ONE.with_(epochs=2, losses=1), DEEP_S),
    Plan("three, cut and suspicion", DEEP, 3, healthy, ONE.with_(crashes=1, losses=1, deaths=CUT), DEEP_S),
)
