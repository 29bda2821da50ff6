"""GCP: which way each address is moved here, and the rights that this needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from orchestrator.providers.faults import PlaceWrong
from orchestrator.providers.gcp.account import NAME
from orchestrator.providers.gcp.ground import Ground
from orchestrator.providers.gcp.mode import GcpMode
from orchestrator.providers.gcp.routes import Routes
from orchestrator.providers.modes import ByMode
from orchestrator.providers.mover import Place, Vip

MODES: Final[Mapping[str, type[GcpMode]]] = {mode.name: mode for mode in (Routes,)}


class Gcp(ByMode[Ground]):
    """Keeps `providers.mover.Mover`."""

    name = "gcp"
    cloud = NAME
    modes: ClassVar[Mapping[str, type[GcpMode]]] = MODES

    def _learn(self) -> Ground:
        return Ground(self._place)

    def _by_place(self, vip: Vip, ground: Ground) -> tuple[str, str]:
        raise PlaceWrong(vip.address, "no way", "")

    @staticmethod
    def policy(place: Place) -> Mapping[str, Any]:
        return {}
