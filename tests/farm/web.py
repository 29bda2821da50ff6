"""nginx on each node of a farm, answering with the node's name; wrk asks."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.farm.plane import Affinity, Protocol, Service
from tests.farm.rig import V4, Farm, enter
from tests.support.waiting import eventually

HTTP = 80
START_S = 20
NGINX = """
daemon off; worker_processes 1; pid {work}/{node}.pid; error_log {work}/{node}.log;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {work}; proxy_temp_path {work}; fastcgi_temp_path {work};
  uwsgi_temp_path {work}; scgi_temp_path {work}; keepalive_requests 1000000;
  server {{ listen 80 backlog=4096; location / {{ return 200 "{node}\\n"; }} }} }}
"""


@contextmanager
def web_servers(farm: Farm, work: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One on each node, all of them answering."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, node in farm.nodes.items():
            config = work / f"{name}.nginx"
            config.write_text(NGINX.format(work=work, node=name))
            words = [*enter(node.namespace), "nginx", "-p", str(work), "-c", str(config)]
            started.append(subprocess.Popen(words, stderr=subprocess.DEVNULL))
        for node in farm.nodes.values():
            eventually(lambda node=node: answers(farm, node.member.v4), START_S)
        yield started
    finally:
        for process in started:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
    process.wait()


def answers(farm: Farm, where: str) -> bool:
    code = f"import urllib.request as u; u.urlopen('http://{where}/', timeout=1).read()"
    words = [*enter(farm.net["client"]), "python3", "-c", code]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def web(owners: tuple[str, ...], port: int = HTTP) -> Service:
    """One service at the farm's IPv4 address."""
    return Service(
        name="web",
        address=V4,
        protocol=Protocol.TCP,
        ports=((port, port),),
        affinity=Affinity.SOURCE_PORT,
        owners=owners,  # type: ignore[arg-type]
    )


def wrk(farm: Farm, seconds: int, connections: int, url: str, *words: str) -> subprocess.Popen[str]:
    """One thread that asks as fast as it can; its report is on its output."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *words, url]
    return subprocess.Popen([*enter(farm.net["client"]), "wrk", *options], stdout=subprocess.PIPE, text=True)
