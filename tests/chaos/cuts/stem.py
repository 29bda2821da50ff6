"""Starts keepers and replicators quickly: forked from a process that has the product imported already.

    python -m tests.chaos.cuts.stem TRIGGER DISK DISK

One JSON object a line: {"do": "start", "node": 0, "settings": FILE, ...} is answered by the process ids,
{"do": "bury", "pids": [...]} when these are gone. What runs is the product's own, from `keeper._hold` and
`replicator.main` on; only the interpreter's start is spared, and the steps of a cut are laid around it.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from orchestrator.host import disk
from orchestrator.mirror import differ
from orchestrator.replicator import apply, change_log, contents, history, keeper, main, outside, stream
from orchestrator.replicator.settings import load
from tests.chaos.cuts import steps
from tests.chaos.cuts.trigger import Trigger

_CHILD_SUBREAPER: Final = 36
_NEW_NETWORK: Final = 0x40000000
FLUSH_EVERY_S: Final = 0.1
"""Instead of five seconds, so that within a life of half a second positions are kept and entries retired."""
HOT_MAX: Final = 16
"""Instead of a thousand, so that entries go at all: what they covered is safe, or is found not to be."""


def run() -> None:
    """Serve until standard input ends."""
    path, *disks = sys.argv[1:]
    trigger = Trigger(Path(path), [Path(disk) for disk in disks])
    libc = ctypes.CDLL(None)
    assert libc.prctl(_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    assert libc.unshare(_NEW_NETWORK) == 0
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = _start(request, trigger) if request["do"] == "start" else _bury(request["pids"])
        print(json.dumps(answer), flush=True)


def _bury(pids: list[int]) -> dict[str, Any]:
    """They are gone on return: nothing of theirs holds the disk any more."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
    return {"buried": pids}


def _start(request: dict[str, Any], trigger: Trigger) -> dict[str, Any]:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        _leave_by(lambda: _keep(request, trigger, writer), Path(request["settings"]).parent)
    os.close(writer)
    with os.fdopen(reader) as told:
        said = told.read()
    if not said:
        return {"error": f"the keeper of {request['settings']} ended: see stderr.log beside it"}
    return {"keeper": pid, "replicator": int(said)}


def _leave_by(work: Any, folder: Path) -> NoReturn:
    """In a forked process: nothing of the parent's is undone at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.dup2(os.open(folder / "stderr.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
        work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _keep(request: dict[str, Any], trigger: Trigger, told: int) -> None:
    """What `keeper.main` and `watch` do, for one life of a replicator: a death is a cut, or a finding."""
    disk.die_with_parent()
    os.setsid()
    settings = load(request["settings"])
    lock = keeper._only_one(settings)
    run_folder = Path(settings.socket).parent
    held = [keeper._hold(volume.path, volume.journal, run_folder) for volume in settings.volumes]
    facts = os.memfd_create("gate")
    given = {"volumes": held, "facts": facts, "life": secrets.token_hex(16), "keeper": os.getpid()}
    child = os.fork()
    if not child:
        os.close(told)
        os.close(lock)
        _serve(request, trigger, given)
    os.write(told, str(child).encode())
    os.close(told)
    os.waitpid(child, 0)


def _serve(request: dict[str, Any], trigger: Trigger, given: dict[str, Any]) -> NoReturn:
    try:
        outside._boot_id = lambda: str(request["boot"])
        outside._booted_at_ns = lambda: int(request["booted_at_ns"])
        stream.FLUSH_EVERY_S = FLUSH_EVERY_S  # type: ignore[misc]
        differ.HOT_MAX = HOT_MAX  # type: ignore[misc]
        differ.MayDiffer.retirable.__defaults__ = (HOT_MAX,)
        CANARIES[request.get("canary", "")]()
        steps.install(trigger, int(request["node"]))
        sys.argv = ["orchestrator.replicator.main", request["settings"], json.dumps(given)]
        code = main.main()
        os._exit(code)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


# --- faults planted in the product: a rig that does not find them is none -----------------------------------


def _none() -> None:
    """The product as it is."""


def _no_sync() -> None:
    """No durable point reaches a disk, on either side; each is told to have."""
    make_durable = contents.Contents._make_durable

    def careless(self: Any, unique: int, fd: int, node: Any, sequence: int, sync: Any, body: bytes) -> None:
        make_durable(self, unique, fd, node, sequence, lambda fd: None, body)

    contents.Contents._make_durable = careless  # type: ignore[method-assign]
    apply._sync_all = lambda fds, data_only: apply._close_all(fds)


def _no_log() -> None:
    """What is noted in the may-differ logs stays in memory."""
    write_queue = change_log.ChangeLog._write_queue

    def forgetful(self: Any) -> None:
        self._queue, self._moved = [differ.encode_placed()], {}
        write_queue(self)

    change_log.ChangeLog._write_queue = forgetful  # type: ignore[method-assign]


def _no_mark() -> None:
    """A copy that began is not marked as half."""
    change = history.History.change

    def careless(self: Any, **fields: Any) -> Any:
        fields = {name: value for name, value in fields.items() if (name, value) != ("inconsistent", True)}
        return change(self, **fields)

    history.History.change = careless  # type: ignore[method-assign]


CANARIES: Final = {"": _none, "no sync": _no_sync, "no log": _no_log, "no mark": _no_mark}


if __name__ == "__main__":
    run()
