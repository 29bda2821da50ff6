"""The demonstration's application: rows over HTTP into SQLite, each durable before it is acknowledged.

    application.py DIRECTORY PORT

    POST /rows/CLIENT/NUMBER    200 when the row is committed; again the same row: 200, nothing changes
    GET  /rows                  every row: {"rows": {"CLIENT": [NUMBER, ...]}, "integrity": "ok", "node": ...}
    GET  /health                200 while the database answers

It knows nothing of hafarm: it is what hafarm keeps alive.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Rows:
    """The table of acknowledged rows."""

    def __init__(self, directory: str) -> None:
        self._lock = threading.Lock()
        self._base = sqlite3.connect(
            os.path.join(directory, "rows.db"), isolation_level=None, check_same_thread=False, timeout=10
        )
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=FULL")
        self._base.execute(
            "CREATE TABLE IF NOT EXISTS rows (client TEXT, number INTEGER, PRIMARY KEY (client, number))"
        )

    def add(self, client: str, number: int) -> None:
        """Commit one row; when this returns it is durable."""
        with self._lock:
            self._base.execute("INSERT OR IGNORE INTO rows VALUES (?, ?)", (client, number))

    def count(self) -> int:
        with self._lock:
            return int(self._base.execute("SELECT count(*) FROM rows").fetchone()[0])

    def everything(self) -> dict[str, object]:
        """All rows by client, and what SQLite says of its own file."""
        with self._lock:
            integrity = self._base.execute("PRAGMA integrity_check").fetchone()[0]
            rows: dict[str, list[int]] = {}
            for client, number in self._base.execute(
                "SELECT client, number FROM rows ORDER BY client, number"
            ):
                rows.setdefault(client, []).append(number)
        return {"rows": rows, "integrity": integrity}


class Handler(BaseHTTPRequestHandler):
    """One request; connections are kept alive as browsers do."""

    protocol_version = "HTTP/1.1"
    rows: Rows
    node = os.environ.get("HAFARM_NODE", socket.gethostname())

    def do_POST(self) -> None:
        words = self.path.strip("/").split("/")
        if len(words) != 3 or words[0] != "rows" or not words[2].isdecimal():
            self._answer(404, {"error": "POST /rows/CLIENT/NUMBER"})
            return
        try:
            self.rows.add(words[1][:64], int(words[2]))
        except sqlite3.Error as fault:
            self._answer(500, {"error": str(fault)})
            return
        self._answer(200, {"node": self.node})

    def do_GET(self) -> None:
        try:
            if self.path == "/rows":
                self._answer(200, {**self.rows.everything(), "node": self.node})
            elif self.path == "/health":
                self._answer(200, {"count": self.rows.count(), "node": self.node})
            else:
                self._answer(404, {"error": "GET /rows or /health"})
        except sqlite3.Error as fault:
            self._answer(500, {"error": str(fault)})

    def _answer(self, status: int, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """A row a line would be all that the log holds."""


class Server(ThreadingHTTPServer):
    """Both families on one port; threads end with the process."""

    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main() -> None:
    """Serve until SIGTERM."""
    directory, port = sys.argv[1], int(sys.argv[2])
    Handler.rows = Rows(directory)
    server = Server(("::", port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
