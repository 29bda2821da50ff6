"""What a Compute Engine instance is told of itself."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.providers.faults import MetadataSilent

DEFAULT: Final = "169.254.169.254"
HOST: Final = "GCE_METADATA_HOST"
"""Of Google's own library: HOST or HOST:PORT."""
FLAVOR: Final = ("Metadata-Flavor", "Google")
"""Must be in each question, and is in each answer: nobody else's web server is believed."""
TIMEOUT_S: Final = 1.0
"""It is on this machine's own host: an answer takes a millisecond."""


@dataclass(frozen=True, slots=True)
class Machine:
    """This instance, as the service tells it."""

    project: str
    zone: str
    name: str

    @property
    def path(self) -> str:
        """As Compute Engine calls it."""
        return f"projects/{self.project}/zones/{self.zone}/instances/{self.name}"


class Metadata:
    """Asks; nothing is kept."""

    def __init__(self) -> None:
        self._where = f"http://{os.environ.get(HOST) or DEFAULT}"
        # Never through a proxy: it would ask about its own machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def machine(self) -> Machine:
        """Who this is."""
        told = self._tree("instance")
        zone, name = str(told.get("zone", "")).rpartition("/")[2], str(told.get("name", ""))
        return Machine(self._ask("project/project-id").strip(), zone, name)

    def aliases(self) -> frozenset[str]:
        """The ranges that this instance has been told to answer for, over all its interfaces."""
        interfaces = self._tree("instance").get("networkInterfaces", [])
        return frozenset(str(each) for one in interfaces for each in one.get("ipAliases", []))

    def _tree(self, path: str) -> dict[str, Any]:
        text = self._ask(f"{path}/?recursive=true")
        try:
            told = json.loads(text)
        except ValueError as fault:
            raise MetadataSilent(self._where, "its answer is not JSON") from fault
        return told if isinstance(told, dict) else {}

    def _ask(self, path: str) -> str:
        request = urllib.request.Request(f"{self._where}/computeMetadata/v1/{path}", headers=dict((FLAVOR,)))
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                if answer.headers.get(FLAVOR[0]) != FLAVOR[1]:
                    raise MetadataSilent(self._where, f"what answers is not Google's: no {FLAVOR[0]}")
                return str(answer.read(1 << 20).decode("utf-8", "replace"))
        except urllib.error.HTTPError as fault:
            raise MetadataSilent(self._where, f"HTTP {fault.code}") from fault
        except (OSError, ValueError, http.client.HTTPException) as fault:
            raise MetadataSilent(self._where, str(getattr(fault, "reason", fault))) from fault
