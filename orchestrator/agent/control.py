"""Agent to agent: orders for another node, over mutual TLS with the nodes' own certificates."""

from __future__ import annotations

import ssl
from typing import Any

import aiohttp

from orchestrator.host.tls import Peer, check_node, client_context
from orchestrator.model.config import ClusterConfig
from orchestrator.model.errors import HafarmError, ProcessUnreachable
from orchestrator.model.names import NodeName

TIMEOUT_S = 10.0


class Neighbours:
    """Calls other nodes' agents; tries their addresses in the file's order."""

    def __init__(self, config: ClusterConfig, bundle: str) -> None:
        self._config = config
        self._contexts = {node.name: _context_for(bundle, config.name, node.name) for node in config.nodes}
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self, node: NodeName, method: str, path: str, body: Any, timeout_s: float = TIMEOUT_S
    ) -> Any:
        """One request; ProcessUnreachable when no address answers as that node."""
        why = "it has no address"
        for address in self._config.node(node).addresses.values():
            host = f"[{address}]" if ":" in address else address
            url = f"https://{host}:{self._config.control_port}{path}"
            try:
                return await self._ask(node, method, url, body, timeout_s)
            except (aiohttp.ClientError, TimeoutError, OSError, HafarmError) as fault:
                why = str(fault) or type(fault).__name__
        raise ProcessUnreachable(f"the agent of {node}", why)

    async def _ask(self, node: NodeName, method: str, url: str, body: Any, timeout_s: float) -> Any:
        if self._session is None or self._session.closed:
            # A connection of its own for each request: orders are rare.
            connector = aiohttp.TCPConnector(force_close=True)
            self._session = aiohttp.ClientSession(connector=connector)
        limit = aiohttp.ClientTimeout(total=timeout_s)
        async with self._session.request(
            method, url, json=body, timeout=limit, ssl=self._contexts[node], server_hostname=node
        ) as response:
            try:
                return await response.json()
            except (aiohttp.ContentTypeError, ValueError) as fault:
                why = f"HTTP {response.status} and no answer of ours: it runs another release"
                raise ProcessUnreachable(f"the agent of {node}", why) from fault

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _context_for(bundle: str, cluster: str, node: NodeName) -> ssl.SSLContext:
    """Speaks to this node alone: whoever else answers at its address is refused in the handshake."""

    def judge(peer: Peer) -> None:
        check_node(peer, cluster, node)

    return client_context(bundle, judge)
