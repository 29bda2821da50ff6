"""Whose metadata service this machine has, by what its hardware says of itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from orchestrator.providers.detect import DMI, HARDWARE
from orchestrator.providers.notices.aws import AwsNotices
from orchestrator.providers.notices.azure import AzureNotices
from orchestrator.providers.notices.gcp import GcpNotices
from orchestrator.providers.notices.service import Source

DEFAULT: Final = "http://169.254.169.254"
MAKE: Final[Mapping[str, tuple[Callable[[str], Source], str]]] = {
    # With the variable by which each cloud's own library is told another place.
    "aws": (AwsNotices, "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    "azure": (AzureNotices, "AZURE_POD_IDENTITY_AUTHORITY_HOST"),
    "gcp": (GcpNotices, "GCE_METADATA_HOST"),
}


def source_here(environment: Mapping[str, str] = os.environ, dmi: Path = DMI) -> Source | None:
    """None: this machine is in none of the clouds that announce anything."""
    for name, (make, variable) in MAKE.items():
        if told := environment.get(variable, ""):
            return make(told if "://" in told else f"http://{told}")
        if all(_read(dmi / file) == text for file, text in HARDWARE[name]):
            return make(DEFAULT)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
