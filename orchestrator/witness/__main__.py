"""`hafarm witness serve`: one process, started by an operator or by systemd."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from dataclasses import dataclass
from typing import ClassVar

from aiohttp import web

from orchestrator.host.realtime import become_prompt, keep_what_is_there
from orchestrator.model.codes import shown
from orchestrator.model.config import WITNESS_PORT
from orchestrator.model.errors import HafarmError
from orchestrator.witness.ledger import Ledger
from orchestrator.witness.server import application, entrance, open_doors


def main() -> int:
    """Serve until SIGTERM. 1: it could not begin."""
    words = argparse.ArgumentParser(prog="hafarm witness serve", description=__doc__)
    words.add_argument("--listen", default=f"0.0.0.0:{WITNESS_PORT}", metavar="HOST:PORT")
    words.add_argument("--bundle", action="append", required=True, metavar="DIR", help="one per cluster")
    words.add_argument("--state", default="/var/lib/hafarm-witness", metavar="DIR")
    asked = words.parse_args()
    become_prompt()
    try:
        asyncio.run(serve(asked.listen, asked.bundle, asked.state))
    except (HafarmError, OSError) as fault:
        code = fault.code if isinstance(fault, HafarmError) else "HF2022"
        print(shown(code, f"the witness cannot serve: {fault}"), file=sys.stderr)
        return 1
    return 0


async def serve(listen: str, bundles: list[str], state: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    host, port = _place(listen)
    doors = open_doors(bundles)
    ledger = Ledger(state)
    runner = web.AppRunner(application(ledger, doors), access_log=None, shutdown_timeout=1.0)
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=entrance(doors))
        await site.start()
        keep_what_is_there()
        print(f"witness ready on {listen}", flush=True)
        await over.wait()
    finally:
        await runner.cleanup()
        ledger.close()


def _place(listen: str) -> tuple[str, int]:
    """HOST and PORT; ListenRefused when it is not HOST:PORT."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ListenRefused(listen)
    return host.strip("[]"), int(port)


@dataclass(eq=False)
class ListenRefused(HafarmError):
    """No place to listen at."""

    code: ClassVar[str] = "HF2022"
    listen: str

    def __str__(self) -> str:
        return f"--listen {self.listen} is not HOST:PORT, such as 0.0.0.0:{WITNESS_PORT}"


if __name__ == "__main__":
    raise SystemExit(main())
