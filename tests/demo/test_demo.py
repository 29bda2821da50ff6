"""The demonstration as a stranger runs it: as root, without root, and interrupted in the middle."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
TIMEOUT_S = 240
"""Half a minute on a quiet machine; a busy one gets its time."""
CHECKS = [
    "the first start is accepted",
    "two nodes in sync",
    "normal service",
    "the service survives the loss of its node",
    "nothing acknowledged is missing after the loss",
    "the lost node is back in sync",
    "a planned swap",
    "exactly one side serves during the split",
    "the split heals by itself",
    "nothing acknowledged was lost",
    "the database is whole",
    "both trees are equal",
]


def left_of(pid: int) -> list[str]:
    """What a demonstration of this process could leave on the machine."""
    tag = f"hf{pid % 100000}-"
    namespaces = Path("/var/run/netns")
    found = [entry.name for entry in namespaces.glob(f"{tag}*")] if namespaces.exists() else []
    lines = Path("/proc/self/mounts").read_text().splitlines()
    found += [line for line in lines if "hafarm-demo-" in line]
    loops = Path("/sys/block").glob("loop*/loop/backing_file")
    found += [text for text in (path.read_text() for path in loops) if "hafarm-demo-" in text]
    cgroups = [line.split()[1] for line in lines if line.split()[2] in ("cgroup", "cgroup2")]
    found += [str(path) for place in cgroups for path in Path(place).glob(f"**/{tag}*")]
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"hafarm-demo-" in line:
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def held(report: dict[str, Any]) -> None:
    """Every check is there and held, and the numbers are those of a real run."""
    assert [check["name"] for check in report["checks"]] == CHECKS
    assert all(check["ok"] for check in report["checks"]), report["checks"]
    assert report["lost"] == 0
    assert report["acknowledged"] > 100
    assert set(report["outage_ms"]) == {"node loss", "swap"}
    assert all(gap > 0 for gap in report["outage_ms"].values())


def demo(*words: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator.demo", "--fast", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/tmp"}


def test_every_check_holds_and_nothing_is_left(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    process = subprocess.Popen(
        demo("--json", str(file)), stdout=subprocess.PIPE, text=True, env=environment()
    )
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, said
    report = json.loads(file.read_text())
    held(report)
    assert f"acknowledged {report['acknowledged']}, lost 0" in said
    assert left_of(process.pid) == []


@pytest.mark.parametrize("begun", ["hafarm start", "SIGKILL"])
def test_an_interrupted_demonstration_leaves_nothing(begun: str) -> None:
    process = subprocess.Popen(
        demo(), stdout=subprocess.PIPE, text=True, env=environment() | {"PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    for line in process.stdout:
        if begun in line:
            break
    assert left_of(process.pid), "it had made something that could be left"
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert "cleaned up" in said
    assert left_of(process.pid) == []


def test_a_user_without_rights_sees_the_same_where_fuse_may_be_opened() -> None:
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o777)
        file = Path(work) / "report.json"
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", as_nobody(work, str(file))],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=environment() | {"TMPDIR": work},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert file.stat().st_uid == NOBODY
        held(json.loads(file.read_text()))


def test_a_user_who_may_not_open_fuse_is_told_what_to_do() -> None:
    with tempfile.TemporaryDirectory() as work:
        script = as_nobody(work, f"{work}/report.json", fuse_mode=0o600)
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=environment(),
        )
    assert done.returncode == 2
    assert "error HF6010: /dev/fuse cannot be opened: run as root, or" in done.stderr


def as_nobody(work: str, file: str, fuse_mode: int = 0o666) -> str:
    """A shell script for a mount namespace of its own: a /dev/fuse for everybody, and no rights at all."""
    lines = [
        f"mkdir {work}/view && mount -t tmpfs tmpfs {work}/view",
        f"mknod {work}/view/fuse c 10 229 && chmod {fuse_mode:o} {work}/view/fuse",
        f"mount --bind {work}/view/fuse /dev/fuse",
    ]
    lines += _reachable(work, [str(ROOT), sys.prefix, sys.base_prefix])
    drop = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --inh-caps=-all --bounding-set=-all"
    return "\n".join([*lines, f"cd / && exec {drop} {shlex.join(demo('--json', file))}"])


def _reachable(work: str, places: list[str]) -> list[str]:
    """Where a folder above is private, as root's home is, put an open one over it that leads to the same."""
    lines: list[str] = []
    covered: list[str] = []
    for number, place in enumerate(dict.fromkeys(places)):
        lines.append(f"mkdir {work}/view/{number} && mount --bind {place} {work}/view/{number}")
    for number, place in enumerate(dict.fromkeys(places)):
        private = [str(up) for up in reversed(Path(place).parents) if not up.stat().st_mode & stat.S_IXOTH]
        if not private:
            continue
        if private[0] not in covered:
            covered.append(private[0])
            lines.append(f"mount -t tmpfs -o mode=755 tmpfs {private[0]}")
        lines.append(f"mkdir -p {place} && mount --bind {work}/view/{number} {place}")
    return lines
