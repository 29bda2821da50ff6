"""Which cloud this machine is in, from what its hardware says of itself: no network is asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DMI: Final = Path("/sys/class/dmi/id")
METADATA: Final[Mapping[str, str]] = {
    "AWS_EC2_METADATA_SERVICE_ENDPOINT": "aws",
    "GCE_METADATA_HOST": "gcp",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST": "azure",
}
"""Of the clouds' own libraries: who sets one says that there is a metadata service of that cloud."""
HARDWARE: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    # All of a cloud's pairs must be there: the vendor alone also makes other machines.
    "aws": (("sys_vendor", "Amazon EC2"),),
    "azure": (
        ("sys_vendor", "Microsoft Corporation"),
        ("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77"),
    ),
    "gcp": (("product_name", "Google Compute Engine"),),
}
HERE: Final = frozenset({"aws", "azure", "gcp"})
"""Clouds for which this version has a provider."""


def provider_here(environment: Mapping[str, str] = os.environ, dmi: Path = DMI) -> tuple[str, str]:
    """Who moves the addresses of `provider: auto` on this machine, and why."""
    for variable, name in METADATA.items():
        if environment.get(variable):
            return name, f"{variable} names a metadata service"
    for name, marks in HARDWARE.items():
        if all(_read(dmi / file) == text for file, text in marks):
            told = " and ".join(f"{file} is {text!r}" for file, text in marks)
            if name in HERE:
                return name, f"the hardware is of {name}: {told}"
            return "onprem", f"the hardware is of {name} ({told}), for which this version has no provider"
    return "onprem", "the hardware is of no cloud: addresses are announced on the nodes' own network"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
