"""What a virtual machine in Azure is told of itself by the instance metadata service."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.providers.faults import MetadataSilent

DEFAULT: Final = "http://169.254.169.254"
ENDPOINT: Final = "AZURE_POD_IDENTITY_AUTHORITY_HOST"
"""Azure's own library asks there for tokens; the rest of the service is beside it."""
VERSION: Final = "2021-02-01"
TIMEOUT_S: Final = 1.0
"""It is on this machine's own host: an answer takes some milliseconds."""
ANSWER_BYTES_MAX: Final = 1 << 20


def instance() -> Mapping[str, Any]:
    """The whole document; MetadataSilent where there is none."""
    where = os.environ.get(ENDPOINT, DEFAULT).rstrip("/")
    # Never through a proxy: it would ask about its own machine, and is refused there.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = f"{where}/metadata/instance?api-version={VERSION}"
    try:
        request = urllib.request.Request(url, headers={"Metadata": "true"})
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            found = json.loads(answer.read(ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as fault:
        raise MetadataSilent(where, f"HTTP {fault.code}") from fault
    except (OSError, ValueError) as fault:
        raise MetadataSilent(where, str(getattr(fault, "reason", fault))) from fault
    if not isinstance(found, dict) or not isinstance(found.get("compute"), dict):
        raise MetadataSilent(where, "what answers there is no metadata service of Azure")
    return found
