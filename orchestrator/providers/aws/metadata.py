"""What an EC2 instance is told of itself: version 2 of the metadata service, the only one that is spoken."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from typing import Final

from orchestrator.providers.faults import MetadataSilent

DEFAULT: Final = "http://169.254.169.254"
ENDPOINT: Final = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
TIMEOUT_S: Final = 1.0
"""It is on this machine's own host: an answer takes a millisecond."""
TOKEN_S: Final = 21600
"""As long as a token may live; one per question would be throttled."""


class Metadata:
    """Asks with a token, which is renewed once when it is refused."""

    def __init__(self) -> None:
        self._where = os.environ.get(ENDPOINT, DEFAULT).rstrip("/")
        # Never through a proxy: it would ask about its own machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._token = ""

    def get(self, path: str) -> str:
        """The text at this path below `latest/meta-data`; nothing where there is none."""
        if not self._token:
            self._renew()
        try:
            return self._ask("GET", f"meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})
        except urllib.error.HTTPError as fault:
            if fault.code == 404:
                return ""
            if fault.code != 401:
                raise MetadataSilent(self._where, f"HTTP {fault.code}") from fault
        self._renew()
        try:
            return self._ask("GET", f"meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})
        except urllib.error.HTTPError as fault:
            raise MetadataSilent(self._where, f"HTTP {fault.code}") from fault

    def _renew(self) -> None:
        header = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
        try:
            self._token = self._ask("PUT", "api/token", header)
        except urllib.error.HTTPError as fault:
            raise MetadataSilent(self._where, f"no token, HTTP {fault.code}") from fault

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(f"{self._where}/latest/{path}", method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return str(answer.read(65536).decode("utf-8", "replace"))
        except urllib.error.HTTPError:
            raise
        except (OSError, ValueError) as fault:
            raise MetadataSilent(self._where, str(getattr(fault, "reason", fault))) from fault
