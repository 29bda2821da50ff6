"""What a node serves: TCP and UDP echo, each answer begun by the node's name.

    serve.py NODE TCP_PORT UDP_PORT

A connection is greeted by `NODE\\n` and then hears what it says; a datagram comes back behind `NODE `.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import sys

IP_PKTINFO = 8
SO_RCVBUFFORCE = 33
RECEIVE_BYTES = 1 << 16


class Echo:
    def __init__(self, node: str, tcp: int, udp: int) -> None:
        self._node = node.encode()
        self._selector = selectors.DefaultSelector()
        listener = socket.create_server(
            ("::", tcp), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096
        )
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        for family in (socket.AF_INET, socket.AF_INET6):
            self._datagrams(family, udp)

    def _datagrams(self, family: int, port: int) -> None:
        """Answers leave from the address that was asked, as a server of UDP must see to."""
        heard = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            heard.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        # All clients ask at once, and a node has its moments: what it drops then says nothing of the farm.
        heard.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        heard.bind(("", port))
        heard.setblocking(False)
        self._selector.register(heard, selectors.EVENT_READ, self._reply)

    def run(self) -> None:
        print("ready", flush=True)
        while True:
            for key, _ in self._selector.select():
                with contextlib.suppress(BlockingIOError):
                    key.data(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.setblocking(True)
        connection.settimeout(5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(connection, selectors.EVENT_READ, self._hear)
        connection.sendall(self._node + b"\n")

    def _hear(self, connection: socket.socket) -> None:
        try:
            heard = connection.recv(RECEIVE_BYTES)
            connection.sendall(heard)
        except OSError:
            heard = b""
        if not heard:
            self._selector.unregister(connection)
            connection.close()

    def _reply(self, heard: socket.socket) -> None:
        data, ancillary, _, sender = heard.recvmsg(RECEIVE_BYTES, 256)
        back = []
        for level, kind, info in ancillary:
            if level == socket.IPPROTO_IP:
                _, local, _ = struct.unpack("=I4s4s", info[:12])
                back = [(level, kind, struct.pack("=I4s4s", 0, local, bytes(4)))]
            else:
                back = [(level, kind, info[:16] + bytes(4))]
        heard.sendmsg([self._node + b" " + data], back, 0, sender)


if __name__ == "__main__":
    Echo(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])).run()
