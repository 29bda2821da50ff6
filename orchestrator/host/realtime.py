"""Being on time on a busy machine: real-time scheduling, locked memory, no garbage collection."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from pathlib import Path
from typing import Final

PRIORITY: Final = 10  # above every ordinary task; below the kernel's own real-time threads (50)
MCL_CURRENT_AND_FUTURE: Final = 3
_M_ARENA_MAX: Final = -8
_libc = ctypes.CDLL(None, use_errno=True)
ROOT_GROUPS: Final = ("/sys/fs/cgroup/cpu/cgroup.procs", "/sys/fs/cgroup/cgroup.procs")


PROMPT: Final = -15
"""Before what is ordinary, and room above it for what an administrator finds more urgent."""


def become_prompt() -> None:
    """Be served before ordinary processes: it is on an overloaded machine that we must act."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, PROMPT)
        # Where the kernel groups tasks by session, a priority counts within its session; this is the group's.
        Path("/proc/self/autogroup").write_text(str(PROMPT))


def become_punctual() -> list[str]:
    """Take what the machine gives; say in words what it refused."""
    refused = []
    if not (_fifo() or (_move_to_root_group() and _fifo())):
        refused.append("no real-time scheduling: use a longer detection time")
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -19)
    if _libc.mlockall(MCL_CURRENT_AND_FUTURE):
        refused.append(f"memory is not locked: {os.strerror(ctypes.get_errno())}")
    keep_what_is_there()
    gc.disable()
    return refused


def keep_what_is_there() -> None:
    """The program is up: what it is made of is no garbage, and to look at it again takes 20 ms a time."""
    gc.collect()
    gc.freeze()
    _libc.malloc_trim(0)  # a megabyte of what was needed only to get here


def share_one_heap() -> None:
    """Before any thread is there: all take their memory from one heap. Python lets one at a time run, so that
    none waits for another; a heap for each of a score of threads takes half a megabyte.
    """
    _libc.mallopt(_M_ARENA_MAX, 1)


def _fifo() -> bool:
    try:
        # Reset on fork: a child that runs away must not run away in real time.
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    except OSError:
        return False
    return True


def _move_to_root_group() -> bool:
    """A child cpu cgroup has no real-time budget under CONFIG_RT_GROUP_SCHED; the root has."""
    for group in ROOT_GROUPS:
        try:
            Path(group).write_text("0")
        except OSError:
            continue
        return True
    return False
