"""GlusterFS replica 2, Debian's packages, in two network namespaces: the rival beside which we measure."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

SETTINGS = ("cluster.quorum-type none", "network.ping-timeout 42", "performance.flush-behind on")
"""All but the first are its defaults, named because they are printed; two bricks cannot have a quorum."""


class Gluster:
    """One volume `bench` with a brick on each of two nodes, mounted in the first one's namespaces.

    Each node has network, mount and pid namespaces of its own; /var/lib/glusterd, /var/run and
    /var/log/glusterfs are private in them. `bricks` are directories on the file system that is measured.
    """

    def __init__(self, work: Path, bricks: tuple[Path, Path]) -> None:
        self.work = work
        self.bricks = bricks
        self.name = f"hg{os.getpid() % 100000}"
        self._holders: list[subprocess.Popen[bytes]] = []
        self.mount = work / "gluster-mount"

    def __enter__(self) -> Gluster:
        try:
            self._wire()
            for number in (0, 1):
                self._start_node(number)
            self._make_volume()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _address(self, number: int) -> str:
        return f"198.18.77.{number + 1}"

    def _wire(self) -> None:
        for number in (0, 1):
            _run("ip", "netns", "add", f"{self.name}{number}")
        _run(
            "ip",
            "link",
            "add",
            "gl0",
            "netns",
            f"{self.name}0",
            "type",
            "veth",
            "peer",
            "gl0",
            "netns",
            f"{self.name}1",
        )
        for number in (0, 1):
            inside = ["ip", "-n", f"{self.name}{number}"]
            _run(*inside, "addr", "add", f"{self._address(number)}/24", "dev", "gl0")
            _run(*inside, "link", "set", "gl0", "up")
            _run(*inside, "link", "set", "lo", "up")

    def _start_node(self, number: int) -> None:
        self.bricks[number].mkdir(parents=True, exist_ok=True)
        self.mount.mkdir(parents=True, exist_ok=True)
        script = (
            "for d in /var/lib/glusterd /var/run /var/log/glusterfs; do "
            "mkdir -p $d; mount -t tmpfs t $d; done; "
            "mkdir -p /var/run/gluster; glusterd --no-daemon >/dev/null 2>&1 & exec sleep infinity"
        )
        holder = subprocess.Popen(
            [
                "nsenter",
                f"--net=/var/run/netns/{self.name}{number}",
                "unshare",
                "-m",
                "--propagation",
                "private",
                *["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
            ],
            start_new_session=True,
        )
        self._holders.append(holder)
        self._await(number, "gluster", "pool", "list")

    def inside(self, number: int, *words: str | Path) -> list[str]:
        """The argument vector that runs a command in a node's namespaces."""
        pid = _inner_pid(self._holders[number].pid)
        return ["nsenter", "-t", str(pid), "-m", "-n", "-p", *map(str, words)]

    def _await(self, number: int, *words: str) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                done = subprocess.run(self.inside(number, *words), capture_output=True, text=True, timeout=20)
                if done.returncode == 0:
                    return
                last = done.stderr or done.stdout
            except (LookupError, subprocess.TimeoutExpired) as fault:
                last = str(fault)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(words)}: {last.strip()}")
            time.sleep(0.3)

    def _make_volume(self) -> None:
        self._await(0, "gluster", "--mode=script", "peer", "probe", self._address(1))
        bricks = [f"{self._address(number)}:{self.bricks[number]}" for number in (0, 1)]
        self._await(
            0,
            "sh",
            "-c",
            "gluster pool list | grep -q 'Connected.*' && gluster peer status | grep -q Connected",
        )
        self._await(
            0, "gluster", "--mode=script", "volume", "create", "bench", "replica", "2", *bricks, "force"
        )
        for setting in SETTINGS:
            self._await(0, "gluster", "--mode=script", "volume", "set", "bench", *setting.split())
        self._await(0, "gluster", "--mode=script", "volume", "start", "bench")
        self._await(0, "mount", "-t", "glusterfs", f"{self._address(0)}:/bench", str(self.mount))

    def __exit__(self, *_: object) -> None:
        for holder in self._holders:
            try:
                os.kill(_inner_pid(holder.pid), 9)  # init of the pid namespace: everything in it dies
            except (LookupError, ProcessLookupError):
                pass
            holder.kill()
            holder.wait()
        for number in (0, 1):
            subprocess.run(["ip", "netns", "del", f"{self.name}{number}"], capture_output=True)
        for brick in self.bricks:
            shutil.rmtree(brick, ignore_errors=True)


def _inner_pid(outer: int) -> int:
    """The init process of the pid namespace that this `unshare --fork` made."""
    for _ in range(3):  # nsenter and unshare replace themselves, only the last one forks
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        if children:
            return int(children[0])
    raise LookupError("not started yet")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
