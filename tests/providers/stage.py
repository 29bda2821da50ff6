"""Two nodes of a scene, with warm workers, and the loop that they live in."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.providers.nodes import LYON, PARIS, Node, cluster
from tests.providers.scenes import Scene


class Stage:
    """A scene, its two nodes with warm workers, and the loop that they live in."""

    def __init__(self, scene: Scene, work: Path) -> None:
        self.scene = scene
        self.knobs = scene.knobs
        self.loop = asyncio.new_event_loop()
        config = cluster(scene.vip, scene.own)
        self.paris, self.lyon = (Node(name, config, scene.environment(name), work) for name in (PARIS, LYON))

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(story, 280))

    async def open(self) -> None:
        await self.paris.start()
        await self.lyon.start()

    async def close(self) -> None:
        await self.paris.close()
        await self.lyon.close()


@contextmanager
def staged(scene: type[Scene], work: Path) -> Iterator[Stage]:
    """A scene in a cloud of its own."""
    with scene.cloud() as cloud:
        make: Any = scene
        stage = Stage(make(cloud), work)
        stage.run(stage.open())
        yield stage
        stage.run(stage.close())
        stage.loop.close()
