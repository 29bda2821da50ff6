"""`python -m orchestrator.providers.registers.trial`: is it a register? For commands, which load no library.

A question as JSON on standard input, an answer as JSON on standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from orchestrator.model.config import BucketConfig, EtcdConfig, WitnessConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import ClusterName
from orchestrator.providers.registers.choose import choose

LOG = "/dev/null"
"""What a worker complains of is in its answers; a stack of calls helps nobody here."""


def main() -> None:
    """One trial."""
    print(json.dumps(asyncio.run(_tried(json.load(sys.stdin)))))


async def _tried(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        register = choose(
            _witness(asked["witness"]),
            ClusterName(asked["cluster"]),
            asked["me"],
            asked["bundle"],
            float(asked["timeout_s"]),
            LOG,
        )
    except HafarmError as fault:
        return {"error": {"code": fault.code, "text": str(fault)}}
    begun = time.monotonic()
    try:
        await register.prove()
        return {"ok": {"where": register.where, "rtt_s": register.rtt_s, "took_s": time.monotonic() - begun}}
    except HafarmError as fault:
        return {"error": {"code": fault.code, "text": str(fault)}}
    finally:
        await register.close()


def _witness(data: dict[str, Any]) -> WitnessConfig:
    etcd, bucket = data["etcd"], data["bucket"]
    return WitnessConfig(
        data["kind"],
        data["url"],
        EtcdConfig(**{**etcd, "endpoints": tuple(etcd["endpoints"])}) if etcd else None,
        BucketConfig(**bucket) if bucket else None,
    )


if __name__ == "__main__":
    main()
