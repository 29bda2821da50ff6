"""The shape of the whole of hafarm.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.config.shape import Cluster, Module, Node
from orchestrator.config.shape_base import Shape
from orchestrator.config.shape_farm import Farm


class File(Shape):
    """hafarm.yaml"""

    cluster: Cluster
    nodes: Annotated[list[Node], Field(min_length=1)]
    modules: list[Annotated[Module | Farm, Field(discriminator="kind")]] = []
