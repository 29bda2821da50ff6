"""The replicator process: one mirror's files, its gate, and the socket on which the agent orders it."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

from orchestrator.host import disk
from orchestrator.host.fuse import mount
from orchestrator.host.reach import processes_inside
from orchestrator.model.errors import Unsupported
from orchestrator.model.names import NodeName, Nonce
from orchestrator.model.record import Record
from orchestrator.replicator.alone import LocalOutlet
from orchestrator.replicator.control import Control
from orchestrator.replicator.facts import FactsFile
from orchestrator.replicator.files import Files
from orchestrator.replicator.keeper import GAVE_UP, STOPPED
from orchestrator.replicator.logs import ChangeLogs, History
from orchestrator.replicator.settings import Settings, load
from orchestrator.replicator.volume import Mode

log = logging.getLogger("hafarm.replicator")


class Replicator:
    """Joins files, gate and lineage; carries out what the agent asks."""

    def __init__(self, settings: Settings, given: Mapping[str, Any]) -> None:
        self.settings = settings
        self.life = Nonce(given["life"])
        self.ended = threading.Event()
        self.reached: dict[str, list[str]] = {}
        """Who had files open below a directory before it was covered: what they write is not replicated."""
        self._orders = threading.Lock()
        self._facts = FactsFile(given["facts"])
        os.makedirs(settings.state_directory, mode=0o700, exist_ok=True)
        self._history = History(settings.state_directory)
        logs = ChangeLogs(settings.state_directory, [NodeName(peer.name) for peer in settings.peers])
        self._outlet = LocalOutlet(NodeName(settings.node), logs)
        self.volumes = [
            Files(number, volume, tuple(fds), self._outlet, settings.writeback)
            for number, (volume, fds) in enumerate(zip(settings.volumes, given["volumes"], strict=True))
        ]
        self._control = Control(settings.socket, self._requests())

    def start(self) -> None:
        """Serve. Beneath a keeper whose gate was open, go on as before: this is no new life (R5)."""
        facts = self._facts.facts
        if facts.is_open:
            self._outlet.serve(facts.required)
        for files in self.volumes:
            files.volume_failed = self._volume_failed
            if not files.resumes:
                self._warn_of_reach(files.path)
            files.start(Mode.OPEN if facts.is_open else Mode.READ_ONLY)
        self._control.start()

    def _warn_of_reach(self, path: str) -> None:
        found = processes_inside(path)
        self.reached[path] = found
        for line in found:
            log.warning("reaches the plain files of %s behind the mount: %s", path, line)

    def _requests(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "widen_required": self.widen_required,
            "take_reign": self.take_reign,
            "close_gate": self.close_gate,
            "follow": self.follow,
            "adopt_copy": self.adopt_copy,
            "stop": self.stop,
        }

    def _volume_failed(self, why: str) -> None:
        self._outlet.close()
        self._facts.change(is_open=False)
        log.error("the volume failed: %s", why)
        self._control.tell("volume_failed", module=self.settings.module, why=why)

    # --- requests ---------------------------------------------------------------------------------------

    def status(self, request: Mapping[str, Any]) -> dict[str, Any]:
        facts = self._facts.facts
        return {
            "module": self.settings.module,
            "life": self.life,
            "open": facts.is_open,
            "record": facts.record.as_dict() if facts.record else None,
            "required": sorted(facts.required),
            "held": self._outlet.held,
            "failed": any(files.failed for files in self.volumes),
            "lineage": [reign.as_list() for reign in self._history.standing.reigns],
            "inconsistent": self._history.standing.inconsistent,
            "volumes": [
                {"path": files.path, "mode": files.mode.value, "reached_by": self.reached.get(files.path, [])}
                for files in self.volumes
            ],
            "peers": {},
        }

    def widen_required(self, request: Mapping[str, Any]) -> dict[str, Any]:
        members = frozenset(NodeName(name) for name in request["members"])
        with self._orders:
            facts = self._facts.change(required=self._facts.facts.required | members)
            self._outlet.widen(members)
        return {"required": sorted(facts.required)}

    def take_reign(self, request: Mapping[str, Any]) -> dict[str, Any]:
        record = Record.from_dict(request["record"])
        assert record.nonce == self.life, "the record was granted to another life of this gate"
        assert record.primary == self.settings.node
        threading.Thread(target=self._take_reign, args=(record,), name="take-reign", daemon=True).start()
        return {}

    def _take_reign(self, record: Record) -> None:
        with self._orders:
            was_open = self._facts.facts.is_open
            try:
                if not was_open:
                    for files in self.volumes:
                        files.sync_volume()  # R10: what was applied is on disk before anybody builds on it
                self._history.add_reign(record.reign)  # G1: durable before the first acknowledgement under it
            except Exception as fault:
                self._volume_failed(f"before the gate could open: {fault}")
                return
            self._facts.change(record=record, required=record.in_sync, is_open=True)
            self._outlet.serve(record.in_sync)
            if not was_open:
                for files in self.volumes:
                    files.open_writes()
        self._control.tell("reign_taken", module=self.settings.module, record=record.as_dict())

    def close_gate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request.get("drain"):
            threading.Thread(target=self._drain, name="drain", daemon=True).start()
        else:
            self._close(drain=False)
        return {}

    def _drain(self) -> None:
        self._close(drain=True)

    def _close(self, drain: bool) -> None:
        with self._orders:
            self._facts.change(is_open=False)
            if not drain:
                self._outlet.close()  # first: whoever holds a lock waits for nothing any more
            for files in self.volumes:
                files.close_writes()
            if drain:
                for files in self.volumes:
                    files.sync_volume()
                self._outlet.close()
        self._control.tell("gate_closed", module=self.settings.module, equal=[])

    def follow(self, request: Mapping[str, Any]) -> dict[str, Any]:
        record = Record.from_dict(request["record"])
        with self._orders:
            self._facts.change(record=record, required=frozenset(), is_open=False)
            self._outlet.close()
            for files in self.volumes:
                files.follow()
        return {}

    def adopt_copy(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._history.change(may_adopt=True)
        return {}

    def stop(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Close what is open and uncover the directories; the process ends after the answer."""
        if self._facts.facts.is_open:
            self._close(drain=False)
        for files in self.volumes:
            files.stop()
        threading.Timer(0.05, self.ended.set).start()  # the answer leaves first
        return {}


def main() -> int:
    """Started by the keeper, with what it holds."""
    settings, given = load(sys.argv[1]), json.loads(sys.argv[2])
    disk.die_with_parent()
    if os.getppid() != given["keeper"]:
        return STOPPED  # it died before we asked to die with it
    logging.basicConfig(
        filename=settings.log or None,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    os.umask(0)  # the kernel or the plain file system applies the caller's
    disk.prefer_survival()
    disk.drop_resource_capability()
    replicator = Replicator(settings, given)
    try:
        replicator.start()
    except (Unsupported, OSError) as fault:
        log.error("cannot serve: %s", fault)
        for volume in settings.volumes:
            mount.unmount(volume.path)
        return GAVE_UP
    replicator.ended.wait()
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
