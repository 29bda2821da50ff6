"""`hafarm witness serve`: one process, started by an operator or by systemd."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from aiohttp import web

from orchestrator.model.config import WITNESS_PORT
from orchestrator.model.errors import HafarmError
from orchestrator.witness.ledger import Ledger
from orchestrator.witness.server import application, context_for


def main() -> int:
    """Serve until SIGTERM. 1: it could not begin."""
    words = argparse.ArgumentParser(prog="hafarm witness serve", description=__doc__)
    words.add_argument("--listen", default=f"0.0.0.0:{WITNESS_PORT}", metavar="HOST:PORT")
    words.add_argument("--bundle", action="append", required=True, metavar="DIR", help="one per cluster")
    words.add_argument("--state", default="/var/lib/hafarm-witness", metavar="DIR")
    asked = words.parse_args()
    try:
        asyncio.run(serve(asked.listen, asked.bundle, asked.state))
    except (HafarmError, OSError) as fault:
        code = fault.code if isinstance(fault, HafarmError) else "HF2022"
        print(f"error {code}: the witness cannot serve: {fault}", file=sys.stderr)
        return 1
    return 0


async def serve(listen: str, bundles: list[str], state: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    host, _, port = listen.rpartition(":")
    ledger = Ledger(state)
    runner = web.AppRunner(application(ledger), access_log=None, shutdown_timeout=1.0)
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=context_for(bundles))
        await site.start()
        print(f"witness ready on {listen}", flush=True)
        await over.wait()
    finally:
        await runner.cleanup()
        ledger.close()


if __name__ == "__main__":
    raise SystemExit(main())
