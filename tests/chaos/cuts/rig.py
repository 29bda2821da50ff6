"""Two nodes' files, stream and gate without agents: cut, brought back as the record allows, and judged."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orchestrator.host import disk
from orchestrator.mirror import differ
from orchestrator.replicator.ops import FRESH_RUN
from orchestrator.setup.ca import make_authority
from tests.chaos import trees
from tests.chaos.cuts.found import EDITS, EQUAL, FELT, HALF, LOOKED, SOUND, Findings
from tests.chaos.cuts.node import Node, Refused, Stem, Struck
from tests.chaos.cuts.plans import Plan
from tests.chaos.cuts.steps import NUMBERS, STEPS
from tests.chaos.cuts.trigger import BY_HAND, Trigger
from tests.chaos.cuts.writer import TURN_S, Stuck, Writers
from tests.replicator.pair import bundle
from tests.replicator.processes import Message, record
from tests.support.disks import LoopDisk, make_image
from tests.support.leftovers import remember
from tests.support.waiting import eventually

NAMES: Final = ("paris", "lyon")
COLD: Final = tuple(f"cold/{number}" for number in range(600))
"""Files that nobody writes after the beginning: no resync has a reason to read them."""
COLD_BYTES: Final = 1_000
COLD_READ_MAX: Final = 2 * FRESH_RUN + 16
"""But those whose inode numbers are near that of a new file: their entries became durable with its own. Each
node has numbers of its own, so that both logs name others."""
REFUSALS_MAX: Final = 5
"""A joiner that was ready may not be any more; so often in a row it is not."""
YOUNG_S: Final = 0.1
"""The entry of a new object is durable a moment after it was made: cut between, one that holds something, as
a symbolic link does, is taken for an edit."""
SOUND_EVERY: Final = 25
"""Starts between two looks of the file system's own checker."""


@dataclass
class Rig:
    """The campaign is agents and register at once: it holds the record, and orders what follows from it."""

    nodes: list[Node]
    trigger: Trigger
    stem: Stem
    chance: random.Random
    found: Findings
    canary: str = ""
    primary: Node | None = None
    """Who serves."""
    record: Message = field(default_factory=dict)
    plan: Plan | None = None
    """What is to be cut next, while things are brought back."""
    _widened: bool = False
    _starts: int = 0

    def __post_init__(self) -> None:
        self.writers = Writers(self.chance)

    # --- words ----------------------------------------------------------------------------------------------

    def other(self, node: Node) -> Node:
        return self.nodes[1 - node.number]

    def _both(self) -> tuple[Node, Node]:
        assert self.primary is not None
        return self.primary, self.other(self.primary)

    def look(self) -> None:
        if self.trigger.fell:
            raise Struck

    # --- the beginning --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Both in sync, applications at work, and nothing in the logs but what is hot."""
        paris, lyon = self.nodes
        for node in self.nodes:
            node.disk.mount()
            node.plain.mkdir()
        (paris.plain / "cold").mkdir()
        for name in COLD:
            (paris.plain / name).write_bytes(self.chance.randbytes(COLD_BYTES))
        for node in self.nodes:
            node.disk.unmount()
            self._power_on(node)
        self._take(paris, [paris.name])
        self.primary = paris
        self._join(lyon)  # before anything is written: what is cold has the lowest inode numbers on both
        self.writers.start(paris.tree)
        for node in self.nodes:
            eventually(lambda node=node: not self._is_logged(node), 30)  # type: ignore[misc]

    def _is_logged(self, node: Node) -> bool:
        """The log that the beginning wrote still speaks of what is cold."""
        log = node.disk.plain / "state" / f"may-differ.{self.other(node).name}"
        entries = {key[1] for key in differ.decode(log.read_bytes()).log.stamps}
        return any((node.plain / name).stat().st_ino in entries for name in COLD)

    # --- the cut --------------------------------------------------------------------------------------------

    def strike(self, victims: int) -> None:
        """The current fails now."""
        self.trigger.cut(BY_HAND, victims)
        self.after_a_cut()

    def after_a_cut(self) -> None:
        """Note it, and end what ended."""
        trigger = self.trigger
        step, at_ns, victims = trigger.fell, trigger.at_ns, trigger.victims
        named = STEPS[step - 1] if step != BY_HAND else None
        struck = [node for node in self.nodes if victims >> node.number & 1]
        self.found.cut(named.name if named else "", self._role_of(struck), self.nodes[0].disk.kind)
        for node in struck:
            node.power_off(self.stem, trigger)
            node.cut_ns = at_ns if node.cut_ns is None else node.cut_ns
            is_joiner = node is not self.primary and named is not None and named.node == "joiner"
            node.half = named.name if is_joiner and named is not None and named.half else ""
        trigger.clear()
        self.plan = None
        if self.primary in struck:
            self.primary = None
            ends = [(at_ns - when, why) for when, why in self.writers.stop()]
            early = [f"{why}, {ns / 1e6:.3f} ms before it" for ns, why in ends if ns > 0]
            self.found.check(FELT, "; ".join(early))

    def _role_of(self, struck: list[Node]) -> str:
        if len(struck) == len(self.nodes):
            return "both"
        serving = self.primary.name if self.primary is not None else self.record["primary"]
        return "primary" if struck[0].name == serving else "secondary"

    # --- bringing it back -----------------------------------------------------------------------------------

    def restore(self) -> None:
        """Two nodes in sync again, by what the record allows; Struck when the plan's cut fell meanwhile."""
        if self.primary is None:
            heir = self._heir()
            if not heir.up:
                self._power_on(heir)
            self._take_role(heir)
        elif not self.other(self.primary).up and self._needs_both():
            self._take(self.primary, [self.primary.name])
        _, joiner = self._both()
        if not joiner.up:
            self._power_on(joiner)
        self._join(joiner)

    def _needs_both(self) -> bool:
        return self._widened or len(self.record["in_sync"]) > 1

    def _heir(self) -> Node:
        """Any member may be it; one that is up mostly is."""
        members = [node for node in self.nodes if node.name in self.record["in_sync"]]
        alive = [node for node in members if node.up]
        return self.chance.choice(alive if alive and self.chance.random() < 0.8 else members)

    def _power_on(self, node: Node) -> None:
        node.disk.unmount()
        self._starts += 1
        if self._starts % SOUND_EVERY == 0:
            node.disk.mount()
            node.disk.unmount()
            self.found.check(SOUND, node.disk.faults())
        status = node.power_on(self.stem, self.trigger, self.look, self.canary)
        self._judge_edits(node)
        if node.half:
            told = (
                "" if status["inconsistent"] else f"cut at {node.half!r}, {node.name} says that it is whole"
            )
            self.found.check(HALF, told)
            node.half = ""

    def _judge_edits(self, node: Node) -> None:
        """What its look found: nobody edits here, so it is a mistake."""
        while (status := node.agent.ask("status"))["checking"]:
            self.look()
        if not status["edited"]:
            return self.found.check(EDITS, "")
        since_s = (node.cut_ns or time.monotonic_ns()) / 1e9 - YOUNG_S - time.monotonic() + time.time()
        old = [name for name in status["edited"]["names"] if _born_at(node, name) < since_s]
        self.found.young += not old
        self.found.check(EDITS, f"{node.name}: {old}" if old else "")
        node.agent.ask("edits_told")
        return None

    def _take_role(self, heir: Node) -> None:
        if heir.agent.ask("status")["record"] is not None and self.chance.random() < 0.5:
            heir.agent.ask("expect_reign")
        self._take(heir, [heir.name])
        self.primary = heir
        before_ns = heir.cut_ns if heir.cut_ns is not None else float("inf")
        self.found.missing(self.writers.missing(heir.plain, before_ns))
        heir.cut_ns = None
        self.writers.rebase(heir.plain)
        self.writers.start(heir.tree)

    def _take(self, node: Node, members: list[str]) -> None:
        """The bid is won: serve under its record."""
        epoch = self.record.get("epoch", 0) + 1
        self.record = record(epoch, node.name, node.life, members)
        self._widened = False
        promotes = self.primary is None
        if promotes:
            self._arm("promotion", node)
        node.agent.ask("take_reign", record=self.record)
        if promotes:
            self._strike_after("promotion", node)
        node.agent.told("reign_taken", lambda message: message["record"]["epoch"] == epoch)

    def _join(self, joiner: Node) -> None:
        primary, _ = self._both()
        primary.agent.heard("copy_begins", "progress")
        before = self._cold_read()
        self._arm("resync", joiner)
        joiner.agent.ask("follow", record=self.record)
        self._strike_after("resync", joiner)
        for _ in range(REFUSALS_MAX):
            primary.agent.told("member_ready", lambda message: message["life"] == joiner.life)
            self._judge_copy(primary, before)
            self._widened = True
            answer = primary.agent.answer("widen_required", members=[joiner.name])
            if "ok" in answer:
                break
        else:
            raise Refused(f"{joiner.name} is not taken in: {answer}")
        joiner.cut_ns = None  # what it is told from now on counts on it, and the copy is on its disk
        self._take(primary, sorted(NAMES))
        epoch = self.record["epoch"]
        joiner.agent.told("reign_offered", lambda message: message["record"]["epoch"] == epoch)
        joiner.agent.ask("admit_reign", record=self.record)

    def _judge_copy(self, primary: Node, before: dict[Path, int]) -> None:
        """What the last copy looked at."""
        said = primary.agent.heard("copy_begins", "progress")
        begins = [at for at, message in enumerate(said) if message["event"] == "copy_begins"]
        if not begins:
            return  # nothing was copied: its stream goes on
        begun, progress = said[begins[-1]], said[begins[-1] + 1 :]
        if begun["full"] or (progress and progress[-1]["full"]):
            why = begun["why"] or progress[-1]["why"]
            self.found.full(why)
            self.found.check(LOOKED, "" if why else "everything was compared, and nobody said why")
            return
        self.found.copies += 1
        now = self._cold_read()
        read = len({path.name for path, at in before.items() if now[path] != at})
        self.found.cold += read
        self.found.check(LOOKED, f"{read} cold files were read" if read > COLD_READ_MAX else "")

    def _cold_read(self) -> dict[Path, int]:
        """When each cold file was read last, on both nodes: the file systems keep strict times."""
        paths = (node.plain / name for node in self.nodes for name in COLD)
        return {path: path.stat().st_atime_ns for path in paths if path.exists()}

    # --- the plan -------------------------------------------------------------------------------------------

    def _arm(self, during: str, mover: Node) -> None:
        plan = self.plan
        if plan is not None and plan.during == during and plan.step is not None:
            node = self.other(mover) if plan.step.node == "primary" else mover
            victims = 3 if plan.both else 1 << node.number
            self.trigger.arm(NUMBERS[plan.step.name], node.number, plan.calls, victims)

    def _strike_after(self, during: str, mover: Node) -> None:
        """At a random moment from here on."""
        plan = self.plan
        if plan is None or plan.during != during or plan.step is not None:
            return
        time.sleep(plan.delay_s)  # the random moment is the point: there is nothing to wait for
        node = self.other(mover) if plan.other else mover
        self.trigger.cut(BY_HAND, 3 if plan.both else 1 << node.number)
        raise Struck

    # --- looking --------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Both are in sync: nothing is missing, both trees are the same, and the application felt nothing."""
        primary, joiner = self._both()
        with self.writers.paused():
            _write_durably(primary.tree / "marker")
            self.found.check(EQUAL, "; ".join(trees.differences(primary.plain, joiner.plain))[:500])
            self.found.missing(self.writers.missing(primary.plain, float("inf")))
        self.found.check(FELT, "; ".join(f"{why}, while nobody was cut" for _, why in self.writers.ends()))

    def end(self) -> None:
        """Nothing stays, whatever state it is in."""
        for node in self.nodes:
            node.power_off(self.stem, self.trigger)
        self.writers.stop()
        self.stem.close()


def _write_durably(path: Path) -> None:
    """The other node has applied everything before it once this returns."""
    faults: list[OSError] = []

    def write() -> None:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(fd, b"all of it", 0)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as fault:
            faults.append(fault)

    # Not in this thread: it is the one that would bid out a member that keeps the answer waiting.
    writing = threading.Thread(target=write, name="marker", daemon=True)
    writing.start()
    writing.join(TURN_S)
    if writing.is_alive():
        raise Stuck(f"a durable write has no answer after {TURN_S} s")
    if faults:
        raise faults[0]


def _born_at(node: Node, name: str) -> float:
    """When the object of this name, as a finding gives it, was made; seconds since the epoch."""
    folder, _, last = name.partition(":")[2].rpartition("/")
    above = os.open(node.plain / folder, os.O_PATH)
    try:
        return (disk.birth_time_ns(above, os.fsencode(last)) or 0) / 1e9
    finally:
        os.close(above)


class Images:
    """Empty file systems of one kind, made once and copied: each disk has its own identity."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fresh(self, kind: str, name: str, to: Path) -> None:
        pattern = self.folder / f"{kind}-{name}.img"
        if not pattern.exists():
            make_image(kind, pattern)
        _copy_sparse(pattern, to)


def _copy_sparse(source: Path, target: Path) -> None:
    """Its data and its holes."""
    with source.open("rb") as reader, target.open("wb") as writer:
        end = os.fstat(reader.fileno()).st_size
        at = 0
        while at < end:
            try:
                at = os.lseek(reader.fileno(), at, os.SEEK_DATA)
            except OSError:
                break  # a hole to the end
            until = os.lseek(reader.fileno(), at, os.SEEK_HOLE)
            while at < until:
                at += os.copy_file_range(reader.fileno(), writer.fileno(), until - at, at, at)
        writer.truncate(end)


@contextmanager
def rig(images: Images, kind: str, chance: random.Random, found: Findings, canary: str = "") -> Iterator[Rig]:
    """Two nodes that serve; where something was found the logs stay, and the fault says where."""
    work = remember(Path(tempfile.mkdtemp(prefix="rig-", dir=images.folder)))
    disks: list[LoopDisk] = []
    wrong, failed = found.wrong, True
    try:
        nodes = _nodes(work, images, kind, disks)
        mounted = [disk.at for disk in disks]
        trigger = Trigger(work / "trigger", mounted)
        made = Rig(nodes, trigger, Stem(trigger, mounted), chance, found, canary)
        try:
            made.begin()
            yield made
        finally:
            made.end()
        failed = found.wrong > wrong
    except KeyboardInterrupt:
        failed = found.wrong > wrong
        raise
    except BaseException as fault:
        fault.add_note(f"logs of both nodes: {work}")
        raise
    finally:
        for disk in disks:
            disk.close()
        if not failed:
            shutil.rmtree(work, ignore_errors=True)


def _nodes(work: Path, images: Images, kind: str, disks: list[LoopDisk]) -> list[Node]:
    """Each with its disk, which is noted at once: whoever cleans up finds it."""
    authority = make_authority("shop")
    nodes = []
    for number, name in enumerate(NAMES):
        base = work / name
        base.mkdir()
        images.fresh(kind, name, base / "disk.img")
        disks.append(LoopDisk(kind, base / "disk.img", base / "disk", base / "plain"))
        keys = bundle(base / "bundle", authority, "shop", name)
        nodes.append(Node(number, name, NAMES[1 - number], base, disks[-1], keys))
    return nodes
