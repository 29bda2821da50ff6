"""An application for tests, which writes down when it lives: what a swap may not let overlap.

    service.py STAMPS PORT [--deaf] [--linger SECONDS]

One line each: `begin NODE TIME` when it has its port, `end NODE TIME` when nothing of it will act any more.
GET / is 200, but 500 while the file `STAMPS.sick-NODE` exists.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NODE = os.environ.get("HAFARM_NODE", "?")


def stamp(file: str, what: str) -> None:
    """One line at once; the clock is the same for all namespaces of one machine."""
    with open(file, "a", encoding="ascii") as out:
        out.write(f"{what} {NODE} {time.monotonic():.6f} {os.getpid()}\n")


class Handler(BaseHTTPRequestHandler):
    """Well, or sick by order."""

    sick = ""

    def do_GET(self) -> None:
        body = NODE.encode()
        self.send_response(500 if os.path.exists(self.sick) else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to tell."""


class Server(ThreadingHTTPServer):
    """Both families."""

    address_family = socket.AF_INET6
    daemon_threads = True


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("stamps")
    words.add_argument("port", type=int)
    words.add_argument("--deaf", action="store_true")
    words.add_argument("--linger", type=float, default=0.0)
    asked = words.parse_args()
    Handler.sick = f"{asked.stamps}.sick-{NODE}"
    server = Server(("::", asked.port), Handler)
    if asked.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    stamp(asked.stamps, "begin")
    server.serve_forever(poll_interval=0.05)
    time.sleep(asked.linger)
    stamp(asked.stamps, "end")


if __name__ == "__main__":
    main()
