"""A real etcd on loopback, over TLS: started, paused, killed, restored from a copy of its files."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from orchestrator.model.config import EtcdConfig
from tests.support.certificates import Certificates

READY_S = 30.0
"""It takes a second on an idle machine."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Etcd:
    """One member alone, or one of several."""

    def __init__(
        self, work: Path, keys: Certificates, name: str = "one", peers: dict[str, int] | None = None
    ) -> None:
        self.work, self.keys, self.name = work, keys, name
        self.port = free_port()
        self.peers = peers or {name: free_port()}
        self.data = work / f"etcd-{name}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def config(self, *others: Etcd, **given: str) -> EtcdConfig:
        """How a node reaches it, and these others."""
        files = {
            "ca": str(self.keys.ca),
            "cert": str(self.keys.work / "client.crt"),
            "key": str(self.keys.work / "client.key"),
        }
        return EtcdConfig((self.url, *(other.url for other in others)), **{**files, **given})

    def words(self) -> list[str]:
        peer = f"http://127.0.0.1:{self.peers[self.name]}"
        ensemble = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in self.peers.items())
        return [
            "etcd",
            f"--name={self.name}",
            f"--data-dir={self.data}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={ensemble}",
            "--logger=zap",
            f"--cert-file={self.keys.work / 'server.crt'}",
            f"--key-file={self.keys.work / 'server.key'}",
            f"--trusted-ca-file={self.keys.ca}",
            "--client-cert-auth",
        ]

    def start(self, wait: bool = True) -> None:
        with (self.work / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(self.words(), stdout=log, stderr=log, start_new_session=True)
        if wait:
            self.ready()

    def ready(self) -> None:
        end = time.monotonic() + READY_S
        while not self._serves():
            assert time.monotonic() < end, (self.work / f"{self.name}.log").read_text()[-2000:]
            time.sleep(0.05)

    def ask(self, what: str, token: str = "", **body: Any) -> Any:
        """One question over the gateway; OSError when there is no good answer."""
        context = ssl.create_default_context(cafile=str(self.keys.ca))
        context.load_cert_chain(self.keys.work / "client.crt", self.keys.work / "client.key")
        headers = {"Authorization": token} if token else {}
        wish = urllib.request.Request(f"{self.url}/v3/{what}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(wish, timeout=5, context=context) as answer:
            return json.load(answer)

    def _serves(self) -> bool:
        try:
            self.ask("kv/range", key="AA==")
        except urllib.error.HTTPError as fault:
            return fault.code in (400, 403)  # it asks who comes
        except OSError:
            return False
        return True

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def copy(self, to: Path) -> None:
        """Its files as they are while it is down."""
        assert self.process is None
        shutil.copytree(self.data, to)

    def restore(self, copy: Path) -> None:
        """Its disk is replaced by that copy."""
        assert self.process is None
        shutil.rmtree(self.data)
        shutil.copytree(copy, self.data)
