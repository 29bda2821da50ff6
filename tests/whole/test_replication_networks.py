"""`replication: [path, ...]`: the data goes over the first network that works, and over no other."""

from __future__ import annotations

from orchestrator.demo.story import MODULE
from tests.support.waiting import eventually
from tests.whole.bare import bare
from tests.whole.networks import TwoNetworks

SIZE = 24 << 20


def test_the_bytes_are_seen_on_the_chosen_network_alone_and_on_the_next_when_it_dies() -> None:
    module = {"run": None, "checks": [], "vip": [], "replication": ["data", "lan"]}
    with bare(kind=TwoNetworks, module=module, data=True) as found:
        found.begin()
        cluster = found.cluster
        first, second = cluster.nodes

        def grown_by(name: str) -> tuple[int, int]:
            """Bytes on (eth0, eth1) of the second node while so much is written and synced on the first."""
            before = cluster.bytes_of(second, "eth0"), cluster.bytes_of(second, "eth1")
            path = str(cluster.data / name)
            code = f"import os; f=open({path!r},'wb'); f.write(os.urandom({SIZE})); os.fsync(f)"
            assert cluster.machines[first].call("python3", "-c", code).returncode == 0
            return tuple(
                cluster.bytes_of(second, interface) - was
                for interface, was in zip(("eth0", "eth1"), before, strict=True)
            )

        lan, data = grown_by("one")
        assert data > SIZE
        assert lan < SIZE / 8  # heartbeats, and what the agents say to the witness

        cluster.carrier(second, "down")
        eventually(lambda: cluster.status(first)["modules"][0]["nodes"] is not None, 10)
        eventually(lambda: found.role(second) == ("SECOND", "ready"), 60)
        eventually(lambda: found.role(first) == ("PRIM", "ready"), 60)
        lan, data = grown_by("two")
        assert lan > SIZE
        assert data < SIZE / 8
        assert cluster.hafarm(first, "verify", MODULE).returncode == 0
