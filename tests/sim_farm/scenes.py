"""What random seeds seldom meet: each scene runs clean, and without its rule it does not."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.model.orders import Drain, Undrain, Weigh
from tests.sim.world import Violation
from tests.sim_farm.cluster import WEB, FarmCluster


def a_machine_comes_back_and_its_agent_does_not() -> None:
    cluster = FarmCluster(1, "abc")
    cluster.begin()
    cluster.clients.come(30)
    host = cluster.hosts["b"]
    host.power_off()
    cluster.converge(("ac",))
    cluster.clients.send()
    host.powered = True
    host.start_pulse()
    cluster.calmly(4.0)


def a_node_hears_and_is_not_heard() -> None:
    cluster = FarmCluster(2, "ab")
    cluster.begin()
    cluster.world.cuts.add(("b", "a"))
    cluster.world.disturb()
    cluster.converge(("a", "b"), within_s=30.0)


def all_receive_everything_and_one_is_not_heard() -> None:
    cluster = FarmCluster(6, "abc", mode="invisible")
    cluster.begin()
    cluster.world.cuts |= {("b", "a"), ("b", "c")}
    cluster.world.disturb()
    cluster.world.run(cluster.world.now + 10.0)
    kernels = [host.kernel for host in cluster.hosts.values() if host.kernel is not None]
    for bucket in range(1024):
        answers = sum(
            kernel.groups[0].owners[bucket] == name
            for name, kernel in zip(cluster.hosts, kernels, strict=True)
        )
        if answers != 1:
            raise Violation(f"{answers} nodes answer the clients of bucket {bucket}")
    cluster.world.cuts.clear()
    cluster.world.disturb()
    cluster.converge()


def two_of_three_do_not_hear_each_other_and_the_third_is_weighed() -> None:
    cluster = FarmCluster(3, "abc")
    cluster.begin()
    cluster.cut("a", "b")
    cluster.world.disturb()
    cluster.world.run(cluster.world.now + 10.0)
    cluster.order("c", Weigh(50))
    cluster.world.run(cluster.world.now + 30.0)
    node = cluster.hosts["c"].node
    assert node is not None
    told = {member.name: member.percent for member in node.farms[WEB].committed.members}
    if told["c"] != 50:
        raise Violation("a change by plan never comes")


def a_node_drains_with_connections() -> None:
    cluster = FarmCluster(4, "abc")
    cluster.begin()
    cluster.clients.come(60)
    before = cluster.clients.count(cluster.hosts["a"])
    cluster.order("a", Drain(limit_s=600.0))
    cluster.calmly(5.0)
    if cluster.clients.count(cluster.hosts["a"]) < before:
        raise Violation("connections of a node that drains are reset before its limit")


def all_get_the_weight_0_one_after_another() -> None:
    cluster = FarmCluster(5, "ab")
    cluster.begin()
    for one, two in ("ab", "ba"):
        cluster.order(one, Weigh(0))
        cluster.calmly(3.0)
        # All begin where everything is now, half of them in buckets that the other one had before.
        cluster.clients.connections.clear()
        cluster.clients.come(60)
        cluster.order(two, Weigh(0))
        cluster.calmly(3.0)
        for name in (one, two):
            cluster.order(name, Weigh(100))
            cluster.calmly(3.0)


def one_joins_and_one_that_had_buckets_leaves() -> None:
    cluster = FarmCluster(7, "abcd")
    cluster.begin()
    d = cluster.hosts["d"]
    cluster.order("d", Drain(limit_s=0.0))
    cluster.calmly(4.0)
    d.power_off()
    cluster.calmly(4.0, heard=False)
    cluster.clients.come(200)
    # Connections of a's stay there while their buckets go to b and c.
    cluster.order("a", Weigh(10))
    cluster.calmly(6.0)
    d.power_on()
    cluster.order("d", Undrain())
    cluster.calmly(6.0)
    cluster.order("b", Drain(limit_s=600.0))
    cluster.calmly(6.0)
    cluster.clients.end_those_of(cluster.hosts["b"])
    cluster.calmly(8.0)


def two_sides_meet_and_an_owner_is_lost() -> None:
    cluster = FarmCluster(8, "abc")
    cluster.begin()
    cluster.clients.come(200)
    # Connections of b's stay there while their buckets go to a and c.
    cluster.order("b", Weigh(10))
    cluster.calmly(6.0)
    # The clients are on the side of c, which answers for the address.
    for one in "bc":
        cluster.cut(one, "a")
    cluster.clients.part(("bc", "a"))
    cluster.world.disturb()
    cluster.converge(("bc", "a"))
    cluster.world.cuts.clear()
    cluster.world.disturb()
    cluster.converge()
    cluster.calmly(2.0)
    cluster.hosts["c"].power_off()
    cluster.calmly(4.0, heard=False)


SCENES: dict[str, Callable[[], None]] = {
    "a former life's word counts": a_machine_comes_back_and_its_agent_does_not,
    "who hears nothing still counts": a_node_hears_and_is_not_heard,
    "who is not heard serves on": all_receive_everything_and_one_is_not_heard,
    "a change waits for ever": two_of_three_do_not_hear_each_other_and_the_third_is_weighed,
    "a node that joins asks nobody": one_joins_and_one_that_had_buckets_leaves,
    "sides that meet tell each other nothing": two_sides_meet_and_an_owner_is_lost,
    "nobody has what nobody wants": all_get_the_weight_0_one_after_another,
    "a drain waits for nobody": a_node_drains_with_connections,
}
"""By the rule that each needs."""
