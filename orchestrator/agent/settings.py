"""What one node's agent has to know before it knows its cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What agent.yaml and HAFARM_* say, complete; paths are absolute."""

    node: str
    config: str
    bundle: str
    state_dir: str
    run_dir: str
    log_dir: str
    log_format: Literal["text", "json"]
