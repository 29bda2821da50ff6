"""What the agent gives a keeper and its replicator: one JSON file in the run directory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from orchestrator.model.errors import CorruptState


@dataclass(frozen=True, slots=True)
class VolumeSettings:
    """One replicated directory."""

    path: str
    exclude: tuple[str, ...]
    journal: str
    """Where the table of nodes and open files outlives the process; in the run directory, gone at boot."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """Another node: (our own address, its address) by path, in order of preference."""

    name: str
    addresses: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole file. Times in seconds."""

    cluster: str
    module: str
    node: str
    socket: str
    state_directory: str
    """Lineage, may-differ logs, quarantine list."""
    bundle: str
    volumes: tuple[VolumeSettings, ...]
    peers: tuple[PeerSettings, ...] = ()
    port: int = 0
    cache: str = "through"
    ack: str = "disk"
    detection_s: float = 0.5
    ack_timeout_s: float = 5.0
    resync_rate: int = 0
    """Bytes a second that copies may send; 0: no bound."""
    resync_workers: int = 6
    """Blocks that are read and hashed at a time."""
    mirrors: int = 1
    """How many this node has: they share what their windows may hold."""
    log: str = ""

    @property
    def writeback(self) -> bool:
        return self.cache == "writeback"


def load(path: str) -> Settings:
    """Read the file; CorruptState when it is not one."""
    try:
        data = json.loads(Path(path).read_text())
        run = Path(data["socket"]).parent
        volumes = tuple(
            VolumeSettings(
                path=str(volume["path"]),
                exclude=tuple(volume.get("exclude", ())),
                journal=str(run / f"volume-{number}.journal"),
            )
            for number, volume in enumerate(data.pop("volumes"))
        )
        peers = tuple(
            PeerSettings(str(peer["name"]), tuple((str(own), str(other)) for own, other in peer["addresses"]))
            for peer in data.pop("peers", ())
        )
        return Settings(volumes=volumes, peers=peers, **data)
    except (OSError, KeyError, TypeError, ValueError) as fault:
        raise CorruptState(what="the replicator's settings", why=str(fault), where=path) from fault
