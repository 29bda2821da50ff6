"""The replicator process: one mirror's files, its gate, and the socket on which the agent orders it."""

from __future__ import annotations

import json
import logging
import os
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from orchestrator.host import disk
from orchestrator.host.reach import processes_inside
from orchestrator.host.realtime import keep_what_is_there, share_one_heap
from orchestrator.host.tls import client_context, server_context
from orchestrator.model.config import HungDiskConfig, SlowPeerConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import ClusterName, ModuleName, NodeName, Nonce
from orchestrator.model.record import Record
from orchestrator.replicator import failed, sentinel, trees
from orchestrator.replicator.care import Care
from orchestrator.replicator.control import Control, Request
from orchestrator.replicator.facts import FactsFile
from orchestrator.replicator.files import Files, Trees
from orchestrator.replicator.follower import Follower
from orchestrator.replicator.hang import Hang
from orchestrator.replicator.history import History
from orchestrator.replicator.link import LinkSettings
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.outbox import window_for
from orchestrator.replicator.outside import Outside
from orchestrator.replicator.settings import Settings, load
from orchestrator.replicator.stream import Primary
from orchestrator.replicator.trees import nothing_excluded
from orchestrator.replicator.volume import Mode
from orchestrator.replicator.watch import GAVE_UP, STOPPED

log = logging.getLogger("hafarm.replicator")

DRAIN_S: Final = 20.0  # a window of 64 MiB at 4 MiB/s; who is slower is not equal, and the swap is refused


class Replicator:
    """Joins files, gate, stream and lineage; carries out what the agent asks."""

    def __init__(self, settings: Settings, given: Mapping[str, Any]) -> None:
        self.settings = settings
        self.life = Nonce(given["life"])
        self.ended = threading.Event()
        self.reached: dict[str, list[str]] = {}
        """Who had files open below a directory before it was covered: what they write is not replicated."""
        self._failed = ""
        self._settled = False
        """The stream is closed, and what was applied is on disk; nothing was written since."""
        self._ready: dict[str, str] = {}
        self._orders = threading.RLock()
        self._switch = threading.Lock()
        """Held for the moment in which changes are let in, and to overtake that."""
        self._closings = 0
        self._reigns: SimpleQueue[Callable[[], None]] = SimpleQueue()
        """What a reign begins with, for a thread that is there already."""
        self._facts = FactsFile(given["facts"])
        trees.HASHERS.bound_to(settings.resync_workers)
        os.makedirs(settings.state_directory, mode=0o700, exist_ok=True)
        self._history = History(settings.state_directory)
        logs = ChangeLogs(settings.state_directory, [NodeName(peer.name) for peer in settings.peers])
        links = link_settings(settings)
        has_patterns = any(volume.exclude or volume.only for volume in settings.volumes)
        excluded = self._excluded if has_patterns else nothing_excluded
        self._primary = Primary(links, self._history, logs, self._tell, excluded)
        self.volumes = [
            Files(number, volume, tuple(fds), self._primary, settings.writeback)
            for number, (volume, fds) in enumerate(zip(settings.volumes, given["volumes"], strict=True))
        ]
        self._primary.serve_tree(Trees(self.volumes), len(self.volumes))
        roots = [files.plain for files in self.volumes]
        self._follower = Follower(links, roots, self._history, logs, self.life, self._tell, excluded)
        self._outside = Outside(
            settings.state_directory,
            NodeName(settings.node),
            roots,
            lambda volume, folder, name, kind: self.volumes[volume].choice.is_local_in(folder, name, kind),
            self._history,
            logs,
            self.life,
            os.path.join(os.path.dirname(settings.socket), "mark"),
            settings.patterns,
        )
        self._primary.busy = self._follower.busy = self._outside.busy
        self._outside.disk_failed = partial(self._volume_failed, of_disk=True)
        self._care = Care(settings, roots, self._primary, self._follower, self._to_the_agent)
        self._control = Control(settings.socket, self._requests())
        hung = HungDiskConfig(settings.hung_after_s, settings.hung_do)
        self._hang = Hang(hung, self._primary, self.volumes, self._to_the_agent, self._volume_failed)

    def start(self) -> None:
        """Serve. Beneath a keeper whose gate was open, go on as before: this is no new life (R5)."""
        facts = self._facts.facts
        for files in self.volumes:
            files.volume_failed = partial(self._volume_failed, of_disk=True)
            if not files.resumes:
                self._warn_of_reach(files.path)
        if facts.is_open:
            assert facts.record is not None
            self._primary.take_reign(facts.record, facts.required)
        for files in self.volumes:
            files.start(Mode.OPEN if facts.is_open else Mode.READ_ONLY)
        self._follower.listen()
        self._beside(self._begin_reigns)
        self._control.start()
        self._beside(self._look_for_edits)
        self._hang.start()

    def _look_for_edits(self) -> None:
        """Under the mount, where nobody can edit any more; nothing is followed or served before its end."""
        try:
            self._outside.check()
        except (OSError, HafarmError) as fault:
            self._volume_failed(f"its files could not be looked through: {fault}", disk.is_disk_fault(fault))
            self._outside.checked.set()
            return
        record = self._facts.facts.record
        if record is not None and record.primary != self.settings.node and not self._facts.facts.is_open:
            self._follower.follow(record)
        self._care.look()

    def _warn_of_reach(self, path: str) -> None:
        self.reached[path] = processes_inside(path)
        for line in self.reached[path]:
            log.warning("reaches the plain files of %s behind the mount: %s", path, line)

    def _requests(self) -> dict[str, Request]:
        return {
            "status": self.status,
            "widen_required": self.widen_required,
            "expect_reign": self.expect_reign,
            "take_reign": self.take_reign,
            "close_gate": self.close_gate,
            "follow": self.follow,
            "admit_reign": self.admit_reign,
            "adopt_copy": self.adopt_copy,
            "compare_in_full": self.compare_in_full,
            "edits_told": self.edits_told,
            "stop": self.stop,
            **self._care.requests(),
        }

    def _excluded(self, volume: int, path: bytes, is_directory: bool) -> bool:
        return self.volumes[volume].choice.is_local(path, is_directory)

    # --- what happens by itself -------------------------------------------------------------------------

    def _tell(self, event: dict[str, Any]) -> None:
        """An event of the streams, on its way to the agent."""
        name = event["event"]
        if name == "member_ready":
            self._ready[event["peer"]] = event["life"]
        elif name in ("stream_down", "member_lost"):
            self._ready.pop(event["peer"], None)
        elif name == "volume_failed":
            self._volume_failed(str(event["why"]), of_disk=True)
            return
        self._control.tell(**{**event, "module": self.settings.module})
        self._care.heard(event)

    def _to_the_agent(self, event: str, **fields: Any) -> None:
        self._control.tell(event, **fields, module=self.settings.module)

    def _volume_failed(self, why: str, of_disk: bool = False) -> None:
        """This disk costs the role at once; in this life no reign is begun on it, and nobody is followed.

        `of_disk`: it failed, and nothing else did; then it is not believed before it is mounted anew.
        """
        with self._switch:
            if self._failed:
                return
            self._failed = why
        self._refuse_writes()
        self._primary.close_gate()
        self._facts.change(is_open=False)
        # Told first: where the disk hangs, so may the one of this log.
        self._control.tell("volume_failed", module=self.settings.module, why=why)
        log.error("the volume failed: %s", why)
        if of_disk:
            for files in self.volumes:
                files.failed = True
            failed.note(Path(self.settings.socket).parent, [files.plain for files in self.volumes], why)
        # Whoever found it may be a thread of the stream that ends with this.
        self._beside(self._follower.give_up)

    # --- requests ---------------------------------------------------------------------------------------

    def status(self, request: Mapping[str, Any]) -> dict[str, Any]:
        facts = self._facts.facts
        standing = self._history.standing
        return {
            "module": self.settings.module,
            "life": self.life,
            "open": facts.is_open,
            "record": facts.record.as_dict() if facts.record else None,
            "required": sorted(facts.required),
            "held": self._primary.held,
            "failed": self._failed,
            "hangs": self._hang.disk.hangs,
            "lineage": [reign.as_list() for reign in standing.reigns],
            "inconsistent": standing.inconsistent,
            "volumes": [
                {"path": files.path, "mode": files.mode.value, "reached_by": self.reached.get(files.path, [])}
                for files in self.volumes
            ],
            "peers": self._peers(),
            "aside": self._care.aside,
            "checking": not self._outside.checked.is_set(),
            "edited": self._outside.found,
        }

    def _peers(self) -> dict[str, Any]:
        record = self._facts.facts.record
        peers = dict(self._primary.status()["peers"])
        for peer, life in list(self._ready.items()):
            if peer in peers:
                peers[peer] = {**peers[peer], "ready": life}
        if not peers and record is not None and record.primary != self.settings.node:
            following = self._follower.status()
            peers[record.primary] = {**following, "up": following["connected"]}
        return peers

    def widen_required(self, request: Mapping[str, Any]) -> dict[str, Any]:
        members = frozenset(NodeName(name) for name in request["members"])
        with self._orders:
            self._primary.widen(members)
            # Kept before the answer: a replicator that dies now is followed by one that needs them too.
            facts = self._facts.change(required=self._facts.facts.required | members)
        return {"required": sorted(facts.required)}

    def expect_reign(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The role is bid for: what would be waited for once it is won is done now.

        The stream ends, as its primary is believed gone; one that is not dials again, and is followed on.
        """
        self._reigns.put(self._expect_reign)
        return {}

    def _expect_reign(self) -> None:
        with self._orders:
            if self._facts.facts.is_open or self._failed or self._settled:
                return
            self._follower.interrupt()
            try:
                self._sync_what_was_applied()
            except OSError as fault:  # the kernel tells it once
                self._volume_failed(f"before the gate could open: {fault}", disk.is_disk_fault(fault))

    def _end_following(self) -> None:
        """R10: what was not applied is dropped, and what was is on disk before anybody builds on it."""
        if self._settled:
            return
        self._follower.stop_following()
        self._sync_what_was_applied()
        self._settled = True

    def _sync_what_was_applied(self) -> None:
        """Nothing is done where a flush of the stream has brought all of it to the disk already."""
        follower = self._follower
        mark = follower.mark
        if mark is None or mark != follower.on_disk:
            for files in self.volumes:
                files.sync_volume()
            follower.on_disk = mark

    def take_reign(self, request: Mapping[str, Any]) -> dict[str, Any]:
        record = Record.from_dict(request["record"])
        assert record.nonce == self.life, "the record was granted to another life of this gate"
        assert record.primary == self.settings.node
        self._reigns.put(partial(self._take_reign, record, self._closings))
        return {}

    def _take_reign(self, record: Record, closings: int) -> None:
        """`closings`: when it was ordered. A gate that was ordered to close since opens no more."""
        self._outside.checked.wait()
        with self._orders:
            if closings != self._closings:
                return
            was_open = self._facts.facts.is_open
            try:
                if self._failed:
                    raise OSError(self._failed)
                if not was_open:
                    if not self._history.standing.reigns:
                        # Nothing is known of these files yet: they would be the ones that count.
                        for volume, files in zip(self.settings.volumes, self.volumes, strict=True):
                            sentinel.check(volume, files.plain)
                    self._end_following()
                # Lineage first (G1), inside; the facts before, so that a successor serves no smaller set.
                self._facts.change(record=record, required=record.in_sync, is_open=True)
                self._settled = False
                self._follower.on_disk = None  # what this node writes itself is no frame
                self._primary.take_reign(record, served=lambda: self._open(record, was_open, closings))
            except (OSError, HafarmError) as fault:
                self._failed = ""
                self._volume_failed(f"before the gate could open: {fault}", disk.is_disk_fault(fault))

    def _open(self, record: Record, was_open: bool, closings: int) -> None:
        """Let the application in; an application that is to be started waits for this to be told."""
        if not was_open:
            for files in self.volumes:
                files.forget_followed()
        with self._switch:
            overtaken = closings != self._closings
            if not overtaken and not was_open:
                for files in self.volumes:
                    files.open_writes()
            if not overtaken:
                # Inside: whoever closes it afterwards also tells it afterwards.
                self._control.tell("reign_taken", module=self.settings.module, record=record.as_dict())
        if overtaken:
            self._primary.close_gate()
            self._facts.change(is_open=False)
        elif not was_open:
            self._beside(self._settle_edits)

    def _settle_edits(self) -> None:
        """What was edited here is served now, and is in the logs towards all others."""
        self._outside.settled()
        self._care.look()

    def edits_told(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The agent has written down what the look for edits found."""
        self._outside.found = None
        return {}

    def _refuse_writes(self) -> None:
        """Of two who change it at once, the one who closes has the last word."""
        self._overtake()
        for files in self.volumes:
            files.refuse_writes()

    def _overtake(self) -> None:
        """A reign that was ordered before this lets no changes in."""
        with self._switch:
            self._closings += 1

    def close_gate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request.get("drain"):
            self._beside(self._drain)
        else:
            self._close()
        return {}

    def _close(self) -> None:
        """At once: nothing that takes time is waited for before every held request is answered."""
        self._refuse_writes()
        self._primary.close_gate()
        self._facts.change(is_open=False)
        self._control.tell("gate_closed", module=self.settings.module, equal=[])

    def _drain(self) -> None:
        equal: frozenset[NodeName] = frozenset()
        try:
            for files in self.volumes:
                files.close_writes()
            # Without the lock of the orders: the agent may need to widen or to close at once meanwhile.
            equal = self._primary.drain(DRAIN_S)
        except (OSError, HafarmError) as fault:
            self._volume_failed(f"while draining: {fault}", disk.is_disk_fault(fault))
        with self._orders:  # before a reign that is taken meanwhile, or after it: told in the order done
            self._primary.close_gate()
            self._facts.change(is_open=False)
            self._control.tell("gate_closed", module=self.settings.module, equal=sorted(equal))

    def follow(self, request: Mapping[str, Any]) -> dict[str, Any]:
        record = Record.from_dict(request["record"])
        assert record.primary != self.settings.node
        self._outside.checked.wait()
        self._overtake()
        with self._orders:
            self._settled = False
            self._facts.change(record=record, required=frozenset(), is_open=False)
            self._primary.stop()
            self._ready.clear()
            for files in self.volumes:
                files.follow()
            self._follower.follow(record)
        return {}

    def admit_reign(self, request: Mapping[str, Any]) -> dict[str, Any]:
        record = Record.from_dict(request["record"])
        with self._orders:
            self._facts.change(record=record)
            self._follower.admit(record)
        return {}

    def adopt_copy(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._follower.adopt()
        return {}

    def compare_in_full(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._orders:
            self._primary.compare_in_full()
            record = self._facts.facts.record
            if record is not None and record.primary != self.settings.node:
                self._follower.stop_following()
                self._history.change(position=None)  # the next handshake finds nothing to begin a delta from
                self._follower.follow(record)
        return {}

    def stop(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Close what is open and uncover the directories; the process ends after the answer."""
        self._overtake()
        if self._facts.facts.is_open:
            self._close()
        self._primary.stop()
        self._follower.stop()
        self._beside(self._leave)
        return {}

    def _leave(self) -> None:
        """While the mount still covers the files: what they are now is what the next start compares with."""
        for files in self.volumes:
            files.refuse_writes()
            files.barrier()
        try:
            if not self._failed:
                self._outside.seal()
        except (OSError, HafarmError) as fault:
            log.warning("the next start looks at the times of all files: %s", fault)
        for files in self.volumes:
            files.stop()
        threading.Timer(0.05, self.ended.set).start()  # the answer leaves first

    def _begin_reigns(self) -> None:
        while True:
            step = self._reigns.get()
            try:
                step()
            except Exception:  # a fault of ours must not cost every later reign as well
                log.exception("%s failed", step)

    def _beside(self, work: Any, *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, name=work.__name__, daemon=True).start()


def link_settings(settings: Settings) -> LinkSettings:
    """Who we are and where the others are, as the streams want it."""
    own = [address for peer in settings.peers for address, _ in peer.addresses]
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # a mirror of one node dials and hears nobody
    return LinkSettings(
        cluster=ClusterName(settings.cluster),
        module=ModuleName(settings.module),
        node=NodeName(settings.node),
        port=settings.port,
        listen=list(dict.fromkeys(own)),
        peers={NodeName(peer.name): peer.addresses for peer in settings.peers},
        server=server_context(settings.bundle) if settings.peers else bare,
        client=client_context(settings.bundle) if settings.peers else bare,
        silence_s=settings.detection_s,
        ack_timeout_s=settings.ack_timeout_s,
        copy_bytes_per_s=settings.resync_rate,
        ack=settings.ack,
        slow_peer=SlowPeerConfig(settings.slow_after_s, settings.slow_do),
        patterns=settings.patterns,
        window_bytes=window_for(settings.mirrors),
    )


def main() -> int:
    """Started by the keeper, with what it holds."""
    share_one_heap()
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
    disk.raise_descriptor_limit()
    disk.drop_resource_capability()
    try:
        replicator = Replicator(settings, given)
        replicator.start()
    except (HafarmError, OSError) as fault:
        code = fault.code if isinstance(fault, HafarmError) else "HF4001"
        log.error("cannot serve: %s: %s", code, fault)
        return GAVE_UP
    keep_what_is_there()
    replicator.ended.wait()
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
