"""What a person sees of the demonstration: the nodes, the clients, and each step as it is checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from orchestrator.demo.story import Machinery, Story

COLOURS = {"ready": "green", "transient": "magenta", "degraded": "yellow", "not-ready": "red"}
REFRESH_S = 0.25


class Screen:
    """Redraws itself from what the nodes say; without a terminal each step is one line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[str] = []
        self._roles: dict[str, tuple[str, str]] = {}
        self._story: Story | None = None
        self._over = threading.Event()
        self._begun = time.monotonic()

    def tell(self, text: str) -> None:
        """One more step."""
        stamp = f"{time.monotonic() - self._begun:6.1f} s  "
        self._lines.append(stamp + text)
        if not self._console.is_terminal:
            self._console.print(stamp + text, soft_wrap=True, markup=False, highlight=False)

    def show(self, story: Story, cluster: Machinery, act: Callable[[], object]) -> None:
        """Run `act` under a live picture."""
        self._story = story
        if not self._console.is_terminal:
            act()
            return
        watcher = threading.Thread(target=self._watch, args=(cluster,), daemon=True)
        watcher.start()
        try:
            with Live(get_renderable=self._draw, console=self._console, refresh_per_second=1 / REFRESH_S):
                act()
        finally:
            self._over.set()
            watcher.join(timeout=5)

    def _watch(self, cluster: Machinery) -> None:
        assert self._story is not None
        while not self._over.wait(REFRESH_S):
            for node in cluster.nodes:
                try:
                    self._roles[node] = self._story.role(node)
                except Exception:
                    self._roles[node] = ("", "")  # it is being lost while we ask; the next look tells

    def _draw(self) -> Group:
        nodes = Table(expand=True)
        for head in ("node", "role", "phase"):
            nodes.add_column(head)
        for node, (role, phase) in self._roles.items():
            nodes.add_row(node, role or "out of reach", Text(phase or "-", style=COLOURS.get(phase, "white")))
        assert self._story is not None
        clients = self._story.clients
        counted = (
            f"{clients.acknowledged} rows acknowledged, served by {clients.node}" if clients else "not yet"
        )
        recent = Text("\n".join(self._lines[-14:]))
        return Group(nodes, Panel(counted, title="clients"), Panel(recent, title="what happens"))
