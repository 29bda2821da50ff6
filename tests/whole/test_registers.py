"""A mirror whose record is in a store: it fails over, outlives the store, and knows an old copy of it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.demo.cluster import WITNESS, Cluster
from orchestrator.demo.story import MODULE
from tests.support.certificates import Certificates
from tests.support.waiting import eventually
from tests.whole.bare import Bare, bare
from tests.whole.test_bad_input import PLAIN, read, told, write

PORT = 2379
S3_PORT = 5000


class EtcdCluster(Cluster):
    """etcd runs on the witness's machine, and no witness."""

    def _make_config(self, preset: str, module: dict[str, Any]) -> dict[str, Any]:
        config = super()._make_config(preset, module)
        keys = self.work / "etcd-keys"
        config["cluster"]["witness"] = {
            "kind": "etcd",
            "endpoints": [f"https://{WITNESS}:{PORT}"],
            "ca": str(keys / "ca.crt"),
            "cert": str(keys / "client.crt"),
            "key": str(keys / "client.key"),
        }
        return config

    @property
    def data_of_etcd(self) -> Path:
        return self.machines["witness"].disk / "etcd"

    def start_witness(self) -> None:
        keys = self.work / "etcd-keys"
        if not keys.exists():
            Certificates(keys, WITNESS)
        self.machines["witness"].start(
            "etcd",
            f"--data-dir={self.data_of_etcd}",
            f"--listen-client-urls=https://{WITNESS}:{PORT}",
            f"--advertise-client-urls=https://{WITNESS}:{PORT}",
            f"--cert-file={keys / 'server.crt'}",
            f"--key-file={keys / 'server.key'}",
            f"--trusted-ca-file={keys / 'ca.crt'}",
            "--client-cert-auth",
            "--logger=zap",
            log="etcd",
        )

    def etcds(self) -> list[int]:
        return self.machines["witness"].pids("etcd", "--data-dir")

    def signal_etcd(self, number: signal.Signals) -> None:
        for pid in self.etcds():
            os.kill(pid, number)

    def end_etcd(self) -> None:
        self.signal_etcd(signal.SIGKILL)
        eventually(lambda: not self.etcds())


class BucketCluster(Cluster):
    """moto's S3 runs on the witness's machine, and no witness."""

    def _make_config(self, preset: str, module: dict[str, Any]) -> dict[str, Any]:
        config = super()._make_config(preset, module)
        config["cluster"]["witness"] = {
            "kind": "s3",
            "bucket": "records",
            "region": "us-east-1",
            "endpoint": f"https://{WITNESS}:{S3_PORT}",
            "ca": str(self.work / "s3-keys" / "ca.crt"),
        }
        return config

    def start_witness(self) -> None:
        keys = self.work / "s3-keys"
        if not keys.exists():
            Certificates(keys, WITNESS)
        machine = self.machines["witness"]
        files = [f"--ssl-cert={keys / 'server.crt'}", f"--ssl-key={keys / 'server.key'}"]
        machine.start(
            sys.executable, "-m", "moto.server", f"--host={WITNESS}", f"--port={S3_PORT}", *files, log="s3"
        )
        code = (
            "import boto3\n"
            f"place = dict(endpoint_url='https://{WITNESS}:{S3_PORT}', verify={str(keys / 'ca.crt')!r})\n"
            "s3 = boto3.client('s3', region_name='us-east-1', **place)\n"
            "s3.create_bucket(Bucket='records')"
        )
        eventually(lambda: machine.call(sys.executable, "-c", code).returncode == 0, 60)

    def workers(self, node: str) -> list[int]:
        return self.machines[node].pids("orchestrator.providers.registers.worker")


def witness_line(found: Bare, node: str) -> str:
    return found.cluster.hafarm(node, "status").stdout.splitlines()[0]


def test_a_mirror_over_etcd_fails_over_and_outlives_it_and_knows_an_old_copy() -> None:
    with bare(EtcdCluster, module=PLAIN) as found:
        cluster = found.cluster
        assert isinstance(cluster, EtcdCluster)
        found.begin()
        first, second = cluster.nodes
        assert "etcd answers in" in witness_line(found, first)
        assert write(found, first, "one", "acknowledged")
        # An old copy of it, as a backup would keep it.
        cluster.end_etcd()
        machine = cluster.machines["witness"]
        assert machine.call("cp", "-a", str(cluster.data_of_etcd), str(machine.disk / "old")).returncode == 0
        # Without it nothing stops.
        assert write(found, first, "two", "acknowledged")
        cluster.start_witness()
        # The primary is lost: the other one wins a bid there.
        cluster.lose(first)
        eventually(lambda: found.role(second) == ("ALONE", "degraded"), 60)
        assert (read(found, second, "one"), read(found, second, "two")) == ("acknowledged",) * 2
        cluster.bring_back(first)
        eventually(lambda: found.role(first) == ("SECOND", "ready"), 60)
        epoch = found.module(second)["record"]["epoch"]
        # It hangs, and a member is lost with it: what is written is held until it answers.
        cluster.signal_etcd(signal.SIGSTOP)
        cluster.lose(first)
        eventually(lambda: "etcd does not answer" in witness_line(found, second), 60)
        assert found.role(second)[0] == "PRIM"
        cluster.signal_etcd(signal.SIGCONT)
        eventually(lambda: found.role(second) == ("ALONE", "degraded"), 60)
        assert found.module(second)["record"]["epoch"] > epoch
        # It is put back to the old copy: both nodes know better, and no role changes.
        cluster.end_etcd()
        assert machine.call("rm", "-r", str(cluster.data_of_etcd)).returncode == 0
        assert machine.call("mv", str(machine.disk / "old"), str(cluster.data_of_etcd)).returncode == 0
        cluster.start_witness()
        cluster.bring_back(first)
        eventually(lambda: told(found, second, "HF2012"), 90)
        eventually(lambda: told(found, first, "HF2012"), 90)
        assert found.role(first)[0] == "WAIT"
        assert found.role(second)[0] == "ALONE"
        assert write(found, second, "three", "acknowledged")
        # The operator names the node that serves.
        done = cluster.hafarm(second, "promote", MODULE, "--node", second, "--accept-data-loss", "--yes")
        assert done.returncode == 0, done.stderr
        eventually(lambda: found.role(first) == ("SECOND", "ready"), 90)
        assert read(found, first, "three") == "acknowledged"


def test_a_mirror_over_a_bucket_fails_over_and_its_workers_may_die(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with bare(BucketCluster, module=PLAIN, preset="cloud") as found:
        cluster = found.cluster
        assert isinstance(cluster, BucketCluster)
        found.begin()
        first, second = cluster.nodes
        assert "s3 answers in" in witness_line(found, first)
        assert write(found, first, "one", "acknowledged")
        # A worker is killed, and so is an agent with its worker; each is there again, and nobody has noticed.
        (worker,) = cluster.workers(second)
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: cluster.workers(second) not in ([], [worker]), 60)
        (worker,) = cluster.workers(first)
        for pid in cluster.machines[first].pids("orchestrator.agent"):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: worker not in cluster.workers(first), 60)
        cluster.start_agent(first)
        eventually(lambda: found.role(first) == ("PRIM", "ready"), 60)
        assert write(found, first, "two", "acknowledged")
        cluster.lose(first)
        eventually(lambda: found.role(second) == ("ALONE", "degraded"), 90)
        assert (read(found, second, "one"), read(found, second, "two")) == ("acknowledged",) * 2
        assert write(found, second, "three", "acknowledged")
        cluster.bring_back(first)
        eventually(lambda: found.role(first) == ("SECOND", "ready"), 90)
