"""One node's plane as a process in the node's network: orders on its input, answers on its output."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from typing import Any

from orchestrator.farm.plane import Affinity, Member, Mode, Plane, Protocol, Service
from orchestrator.host.farm_plane import FarmPlane, macs
from orchestrator.host.nft import DeadMan, open_nft
from orchestrator.host.plane_words import PlaneEvent
from orchestrator.model.errors import HafarmError


def plane_of(told: dict[str, Any]) -> Plane:
    """A plane from its JSON."""
    members = [Member(**each) for each in [told["me"], *told["peers"]]]
    services = tuple(
        Service(
            **{
                **each,
                "protocol": Protocol(each["protocol"]),
                "affinity": Affinity(each["affinity"]),
                "ports": tuple(map(tuple, each["ports"])),
                "owners": tuple(each["owners"]),
                "previous": {int(bucket): node for bucket, node in each["previous"].items()},
                "lost": frozenset(each["lost"]),
            }
        )
        for each in told["services"]
    )
    return Plane(
        **{
            **told,
            "me": members[0],
            "peers": tuple(members[1:]),
            "mode": Mode(told["mode"]),
            "addresses": tuple(told["addresses"]),
            "answers": frozenset(told["answers"]),
            "services": services,
        }
    )


class Driver:
    def __init__(self, farm: str) -> None:
        self.events: list[str] = []
        self.plane = FarmPlane(farm, self._heard)  # type: ignore[arg-type]
        self.dead_man: DeadMan | None = None

    def _heard(self, event: PlaneEvent) -> None:
        self.events.append(f"{getattr(event, 'code', type(event).__name__)} {event}")

    async def do(self, order: dict[str, Any]) -> Any:
        match order["do"]:
            case "apply":
                begin = time.perf_counter()
                await self.plane.apply(plane_of(order["plane"]))
                return time.perf_counter() - begin
            case "preflight":
                found = await self.plane.preflight(plane_of(order["plane"]))
                return [f"{fault.code} {fault}" for fault in found]
            case "counters":
                found_ = await self.plane.counters()
                return {name: dataclasses.asdict(traffic) for name, traffic in found_.items()}
            case "announce":
                self.plane.announce()
            case "found":
                return await self.plane.found()
            case "settled":
                # It looked at the kernel after its last change.
                return not self.plane._changed.is_set() and self.plane._seen is not None
            case "events":
                return self.events
            case "clean":
                await self.plane.clean()
            case "macs":
                return await macs("eth0", order["addresses"])
            case "guard":
                self.dead_man = DeadMan(open_nft(), [])
                self.dead_man.guard(order["addresses"], shared=True)
            case "hold":
                assert self.dead_man is not None
                self.dead_man.renew(time.time(), dict.fromkeys(order["addresses"], order["seconds"]))
        return None


async def main() -> None:
    driver = Driver(sys.argv[1])
    await driver.plane.start()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    reader._limit = 1 << 24  # type: ignore[attr-defined]  # a plane is longer than a line of text
    print("{}", flush=True)
    while line := await reader.readline():
        try:
            answer = {"ok": await driver.do(json.loads(line))}
        except HafarmError as fault:
            answer = {"error": f"{fault.code} {fault}"}
        print(json.dumps(answer), flush=True)
    await driver.plane.close()


if __name__ == "__main__":
    asyncio.run(main())
