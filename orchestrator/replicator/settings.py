"""What the agent gives a keeper and its replicator: one JSON file in the run directory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.model.errors import CorruptState


@dataclass(frozen=True, slots=True)
class VolumeSettings:
    """One replicated directory."""

    path: str
    exclude: tuple[str, ...]
    journal: str
    """Where the table of nodes and open files outlives the process; in the run directory, gone at boot."""
    only: tuple[str, ...] = ()
    must_exist: str = ""
    """A path below this one without which nothing is begun here."""


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
    slow_after_s: float = 5.0
    slow_do: Literal["alert", "drop"] = "alert"
    hung_after_s: float = 30.0
    hung_do: Literal["alert", "move"] = "alert"
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

    @property
    def patterns(self) -> str:
        """The same on two nodes that replicate the same names of their directories."""
        chosen = [[volume.exclude, volume.only] for volume in self.volumes]
        return hashlib.blake2b(json.dumps(chosen).encode(), digest_size=16).hexdigest()


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
                only=tuple(volume.get("only", ())),
                must_exist=str(volume.get("must_exist", "")),
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
