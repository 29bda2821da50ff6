"""A way between two replicators that a test can make swallow everything, without an end to be seen."""

from __future__ import annotations

import contextlib
import socket
import threading


class Relay:
    """Passes connections on to a port of this machine."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.swallows = False
        self.takes = threading.Event()
        """Cleared: it reads nothing either, as a machine that is gone; whoever sends soon has to wait."""
        self.takes.set()
        self.passed = 0
        """How often something came from whoever dialled."""
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.takes.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                dialled, _ = self._listener.accept()
                onward = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [dialled, onward]
                threading.Thread(target=self._pass, args=(dialled, onward, 1), daemon=True).start()
                threading.Thread(target=self._pass, args=(onward, dialled, 0), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.takes.wait()
                self.passed += counted
                if not self.swallows:
                    target.sendall(data)
            if not self.swallows:
                target.shutdown(socket.SHUT_WR)
