"""What encryption costs a stream: one sender, one receiver, 1 MiB blocks, with TLS 1.3 and without.

tls.py serve PORT BUNDLE        receives until the end, on PORT bare and on PORT + 1 encrypted
tls.py send HOST PORT BUNDLE MEBIBYTES
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.demo.machine import Machine
from orchestrator.host.tls import client_context, server_context
from orchestrator.host.tls_socket import TlsSocket

PORT = 9611
BLOCK = 1 << 20


def share(sender: Machine, receiver: Machine, host: str, keys: Path, measure: float) -> float:
    """Encrypted speed divided by bare speed."""
    words = [sys.executable, "-m", "tests.bench.tls"]
    server = receiver.start(*words, "serve", str(PORT), str(keys / receiver.name), pipes=True)
    assert server.stdout is not None
    try:
        server.stdout.readline()
        speeds = []
        for port in (PORT, PORT + 1):
            amount = str(max(64, int(512 * measure)))
            done = sender.call(*words, "send", host, str(port), str(keys / sender.name), amount)
            assert done.returncode == 0, done.stderr
            speeds.append(float(done.stdout))
        return speeds[1] / speeds[0]
    finally:
        for pid in receiver.pids("tests.bench.tls"):
            os.kill(pid, signal.SIGKILL)
        server.wait()


def serve(port: int, bundle: str) -> None:
    context = server_context(bundle)
    listeners = [socket.create_server(("", each)) for each in (port, port + 1)]
    print("ready", flush=True)
    for listener, encrypted in zip(listeners, (None, context), strict=True):
        threading.Thread(target=_receive_all, args=(listener, encrypted)).start()


def _receive_all(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    buffer = bytearray(BLOCK)
    while True:
        connection = listener.accept()[0]
        if context is None:
            while connection.recv_into(buffer):
                pass
        else:
            tls = TlsSocket(connection, context)
            tls.handshake()
            while tls.receive():
                pass
        connection.close()


def send(host: str, port: int, bundle: str, mebibytes: int) -> float:
    connection = socket.create_connection((host, port))
    give: Callable[[bytes], None] = connection.sendall
    if port != PORT:
        tls = TlsSocket(connection, client_context(bundle), dials=True)
        tls.handshake()
        give = tls.send
    data = bytes(BLOCK)
    begin = time.monotonic()
    for _ in range(mebibytes):
        give(data)
    return mebibytes / (time.monotonic() - begin)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), sys.argv[3])
    else:
        print(send(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
