"""keepalived, Debian's package, on two nodes and a client: the rival for client gaps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VIP = "198.18.78.100"
PORT = 7777
MASTER = "Entering MASTER STATE"
CONFIG = """
global_defs {{
  router_id bench{number}
  vrrp_version 3
  script_user root
}}
vrrp_instance bench {{
  state BACKUP
  interface eth0
  virtual_router_id 51
  priority {priority}
  advert_int {advert}
  virtual_ipaddress {{ {vip}/24 dev eth0 }}
}}
"""


class Pair:
    """Two keepalived nodes, a UDP server on each, and a client on one bridge in namespaces of their own."""

    def __init__(self, advert: float, answer: Path) -> None:
        """`answer`: the program that answers UDP, which runs on both nodes all the time."""
        self.advert = advert
        self.answer = answer
        self.tag = f"hk{os.getpid() % 100000}"
        self.work = Path(tempfile.mkdtemp(prefix="keepalived-bench-"))
        self._processes: dict[str, list[subprocess.Popen[str]]] = {"0": [], "1": [], "c": []}

    def __enter__(self) -> Pair:
        try:
            self._wire()
            for number in ("0", "1"):
                self._start(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wire(self) -> None:
        _run("ip", "netns", "add", f"{self.tag}s")
        _run("ip", "-n", f"{self.tag}s", "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", f"{self.tag}s", "link", "set", "br0", "up")
        for index, name in enumerate(("0", "1", "c")):
            inside = ["ip", "-n", f"{self.tag}{name}"]
            _run("ip", "netns", "add", f"{self.tag}{name}")
            ends = ["type", "veth", "peer", f"p{name}", "netns", f"{self.tag}s"]
            _run("ip", "link", "add", "eth0", "netns", f"{self.tag}{name}", *ends)
            _run("ip", "-n", f"{self.tag}s", "link", "set", f"p{name}", "master", "br0", "up")
            _run(*inside, "addr", "add", f"198.18.78.{index + 1}/24", "dev", "eth0")
            _run(*inside, "link", "set", "eth0", "up")
            _run(*inside, "link", "set", "lo", "up")

    def _start(self, number: str) -> None:
        config = self.work / f"{number}.conf"
        priority = 100 + 50 * int(number == "0")
        config.write_text(CONFIG.format(number=number, priority=priority, advert=self.advert, vip=VIP))
        pids = [f"--pid={self.work}/{number}.pid", f"--vrrp_pid={self.work}/{number}.vrrp"]
        log = (self.work / f"{number}.log").open("w")
        self._spawn(number, "keepalived", "-n", "-l", "-D", "-P", "-f", str(config), *pids, err=log)
        self._spawn(number, str(self.answer), str(PORT))

    def _spawn(self, name: str, *words: str, err: Any = subprocess.DEVNULL) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["nsenter", f"--net=/var/run/netns/{self.tag}{name}", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            start_new_session=True,
        )
        self._processes[name].append(process)
        return process

    def await_master(self) -> str:
        """The node that holds the address."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for number in ("0", "1"):
                shown = _run("ip", "-n", f"{self.tag}{number}", "-br", "addr", "show", "dev", "eth0")
                if VIP in shown:
                    return number
            time.sleep(0.05)
        raise RuntimeError("keepalived elected no master within 30 s")

    def masters(self) -> int:
        """How often any node took the address so far."""
        return sum((self.work / f"{number}.log").read_text().count(MASTER) for number in ("0", "1"))

    def gap_of(self, fault: Callable[[], None]) -> float:
        """Probe, do the fault, wait until replies are back for a second: the longest gap."""
        client = self._spawn("c", sys.executable, "-m", "tests.bench.probe", VIP, str(PORT))
        assert client.stdout is not None
        client.stdout.readline()
        time.sleep(1.0)  # the steady state that the gap is compared with
        fault()
        time.sleep(max(3.0, 6 * self.advert))  # longer than any take-over of this setting
        out, _ = client.communicate()
        gaps = json.loads(out)["gaps"]
        return max((end - begin for begin, end in gaps), default=0.0)

    def lose(self, number: str) -> None:
        """The node is gone: its cable and all its processes."""
        _run("ip", "-n", f"{self.tag}s", "link", "set", f"p{number}", "down")
        for process in self._processes[number]:
            _kill_group(process)

    def __exit__(self, *_: object) -> None:
        for processes in self._processes.values():
            for process in processes:
                _kill_group(process)
                process.wait()
        for name in ("0", "1", "c", "s"):
            subprocess.run(["ip", "netns", "del", f"{self.tag}{name}"], capture_output=True)
        shutil.rmtree(self.work, ignore_errors=True)


def _kill_group(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        pass


def _run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
