"""Virtual machines: their power, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.clouds.azure.shapes import Json
from tests.clouds.azure.store import Address, Store

BECOMES: Final[Mapping[str, tuple[str, str]]] = {
    "start": ("starting", "running"),
    "powerOff": ("stopping", "stopped"),
    "deallocate": ("deallocating", "deallocated"),
    # The machine is told as running while it restarts.
    "restart": ("running", "running"),
}
"""An action: the power state while it is under way, and after it."""


@dataclass
class Machines:
    """The power state of each machine, by its address in lower case."""

    store: Store
    power: dict[str, str] = field(default_factory=dict)

    def of(self, address: Address) -> str:
        """A machine that was just made runs."""
        return self.power.get(address.key, "running")

    def begin(self, address: Address, action: str) -> None:
        self.power[address.key] = BECOMES[action][0]
        self.store.changed()

    def finish(self, address: Address, action: str) -> None:
        self.power[address.key] = BECOMES[action][1]

    def view(self, address: Address) -> Json:
        """The instance view, as far as somebody who fences reads it."""
        power = self.of(address)
        resource = self.store.resources[address.key]
        state = resource["properties"]["provisioningState"].lower()
        return {
            "statuses": [
                {
                    "code": f"ProvisioningState/{state}",
                    "level": "Info",
                    "displayStatus": f"Provisioning {state}",
                },
                {"code": f"PowerState/{power}", "level": "Info", "displayStatus": f"VM {power}"},
            ]
        }
