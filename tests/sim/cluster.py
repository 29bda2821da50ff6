"""A whole cluster of the real machines, its register, its clients and its operator."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from orchestrator.cluster.heart import Heart
from orchestrator.model.config import PRESETS, ClusterConfig, DirectoryConfig, MirrorConfig, NodeConfig
from orchestrator.model.events import OperatorAsked
from orchestrator.model.names import ClusterName, ModuleName, NodeName, RequestId
from orchestrator.model.orders import Leave, Order, Promote, Restart, Resync, Start, Stop, Swap
from orchestrator.model.record import Record
from orchestrator.model.timings import derive
from tests.sim.gate import Gate
from tests.sim.ghost import Ghost
from tests.sim.host import Host
from tests.sim.register import WITNESS, Register
from tests.sim.session import Session
from tests.sim.volume import DIRECTORY, EVERYTHING, EXTENTS, FILES
from tests.sim.world import Violation, World

MODULE = ModuleName("shop")
NAMES = (NodeName("a"), NodeName("b"), NodeName("c"))
CONVERGED_S = 120.0
"""After everything is healed: detection, two bids, a copy, one rest of 30 s after a spent restart budget."""


class Cluster:
    """Two or three nodes with one mirror, at the `cloud` preset."""

    def __init__(
        self, seed: int, nodes: int, jumping: bool = True, jitter: bool = True, **module: Any
    ) -> None:
        self.names = NAMES[:nodes]
        mirror = MirrorConfig(MODULE, self.names, (DirectoryConfig("/srv/shop"),), **module)
        self.module = mirror
        members = tuple(NodeConfig(name, {}) for name in self.names)
        timing = PRESETS["cloud"]
        self.config = ClusterConfig(ClusterName("sim"), members, (mirror,), timing=timing, preset="cloud")
        self.timings = derive(timing)
        # Three T after the last disturbance every verdict has fallen; the start grace is as long.
        self.world = World(seed, self.timings.start_grace_s + self.timings.detection_s, jumping, jitter)
        self.ghost = Ghost(self.world, EXTENTS)
        self.register = Register(self.world)
        self.register.changed = self._record_changed
        self.hosts = {str(name): Host(self, name, MODULE) for name in self.names}
        self.world.check = self._check
        self.bids: list[Record] = []
        """All that ever left: each may land for as long as its tag stands."""
        self.requests = 0
        self.asked: dict[RequestId, tuple[Host, int, Order, bool]] = {}
        self.acknowledged = 0
        self.idle_until = 0.0
        """Nobody asks anything of the application before."""

    # --- invariants ---------------------------------------------------------------------------------------

    def _check(self) -> None:
        record = self.register.newest
        if record is not None:
            holds = self.ghost.holds
            memory = self.module.ack == "memory"
            for name in record.in_sync:
                volume = self.hosts[name].volume
                holds(name, volume, volume.memory if memory else volume.disk)
        if any(host.volume.touched for host in self.hosts.values()):
            self._touched()

    def _touched(self) -> None:
        for host in self.hosts.values():
            host.volume.touched = False
            if not host.volume.inconsistent:
                self.ghost.whole(host.name, host.volume.disk)
        self.logged()
        if self.ghost.losing:
            self.ghost.kept([host.volume for host in self.hosts.values()])

    def _record_changed(self, record: Record) -> None:
        for host in self.hosts.values():
            host.volume.touched = True
        history = self.register.history
        before = history[-2] if len(history) > 1 else None
        # A force that is bid for again gives up nothing more.
        if record.forced and not (before and before.forced and before.primary == record.primary):
            self.ghost.forced_at = record.epoch
        if before is None:
            return
        if record.epoch <= before.epoch:
            raise Violation(f"epoch {record.epoch} after {before.epoch}")
        if record.primary not in before.in_sync and not record.forced:
            raise Violation(f"{record.primary} was not in sync {sorted(before.in_sync)} and became primary")

    def exclusive(self) -> None:
        """At most one node may acknowledge."""
        able = [
            name for name, host in self.hosts.items() if host.keeper and host.keeper.gate.can_acknowledge()
        ]
        if len(able) > 1:
            raise Violation(f"{able} can acknowledge, each without the other")

    def one_answers(self) -> None:
        """At most one node answers for the address."""
        if sum(host.service.claimed for host in self.hosts.values()) > 1:
            answering = [name for name, host in self.hosts.items() if host.pulse.answers()]
            if len(answering) > 1:
                raise Violation(f"{answering} answer for the address at once")

    def logged(self) -> None:
        """An extent that differs between two nodes is in one of their may-differ logs.

        Or others changed it, and its node has not looked yet: it follows nobody and serves nobody before. Or
        they put an old disk in its place, which is noticed when the two meet (S11).
        """
        for one in self.names:
            for two in self.names:
                if one < two:
                    self._logged(self.hosts[one], self.hosts[two])

    def _logged(self, one: Host, two: Host) -> None:
        mine, theirs = one.volume, two.volume
        if two.name in mine.rolled_back or one.name in theirs.rolled_back:
            return
        for extent in EVERYTHING:
            same = mine.memory[extent] == theirs.memory[extent] and mine.disk[extent] == theirs.disk[extent]
            logged = extent in mine.logs[two.name] or extent in theirs.logs[one.name]
            if same or logged or extent in mine.unseen or extent in theirs.unseen:
                continue
            raise Violation(
                f"extent {extent} differs between {one.name} ({mine.memory[extent]}/{mine.disk[extent]}) and "
                f"{two.name} ({theirs.memory[extent]}/{theirs.disk[extent]}) and is in neither log"
            )

    def counts_on(self, host: Host) -> bool:
        """Somebody does, or may yet: by the record, a bid that is out, a gate's needs, or a stream to it."""
        newest = self.register.newest
        if newest is None or host.name in newest.in_sync:
            return True
        keepers = [other.keeper for other in self.hosts.values() if other.keeper is not None]
        needed = [name for keeper in keepers for name in (*keeper.gate.required, *keeper.streams.sessions)]
        bid_for = [name for bid in self.bids if bid.epoch > newest.epoch for name in bid.in_sync]
        return host.name in needed or host.name in bid_for

    # --- what the hosts tell ------------------------------------------------------------------------------

    def adjust(self, heart: Heart) -> None:
        """A place where a test plants other lease times."""

    def started(self, host: Host) -> None:
        """Stopped means stopped before started means started."""
        self.world.counts["application started"] += 1
        assert host.keeper is not None
        record = host.keeper.gate.record
        assert record is not None
        giver = next((b.primary for b, r in pairwise(self.register.history) if r.epoch == record.epoch), "")
        for other in self.hosts.values():
            if other is host or not (other.service.application or other.pulse.answers()):
                continue
            own = other.keeper.gate.record if other.keeper else None
            # A giver that took over from a paused node serves under a record of its own again.
            again = own is not None and own.epoch > record.epoch
            if record.reason == "swap" and other.name == giver and not again:
                raise Violation(f"{host.name} starts after a swap, and {other.name} has not ended")
            if self.module.overlap == "none" and self._could_have_ended(other):
                raise Violation(f"{host.name} starts while the application still runs on {other.name}")

    def _could_have_ended(self, host: Host) -> bool:
        """Alive for so long that its own agent had to end the application; a frozen one promises nothing."""
        agent = host.agent
        dead = agent.node is None or host.frozen or agent.frozen or host.pulse.heart is None
        return not dead and self.world.at - agent.unsound_until > 2 * self.timings.detection_s

    def told(self, host: Host) -> None:
        self.acknowledged += 1

    def held_failed(self, host: Host) -> None:
        self.world.counts["gate closed"] += 1

    def crashed_between_effects(self, host: Host) -> None:
        """The armed crash: the agent is killed, or the power fails, between two effects of one decision."""
        power, host.agent.crash_power = host.agent.crash_power, False
        host.agent.crash_in = None
        self.world.counts["crash between effects"] += 1
        if power:
            self.loses_power(host)
        else:
            self.world.fault("agent crash", host.name)
            host.agent.kill()
            self.world.after(0.2 + 3 * self.world.random.random(), None, self.revive, host)

    def loses_power(self, host: Host) -> None:
        """For some seconds."""
        self.world.fault("power cut", host.name)
        host.power_off()
        self.world.after(1.0 + 10 * self.world.random.random(), None, self.revive, host)

    def revive(self, host: Host) -> None:
        """Power and processes are back."""
        if host.powered and host.agent.node is not None and host.pulse.heart is not None:
            return
        self.world.fault("restart", host.name)
        if not host.powered:
            host.power_on()
            return
        if host.pulse.heart is None:
            host.pulse.start()
        if host.agent.node is None:
            host.agent.start()

    # --- the wires ----------------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        self.world.cuts.add((source, target))
        self.watch_streams()

    def unplugged(self, host: Host) -> None:
        self.world.disturb()
        self.watch_streams()

    def watch_streams(self) -> None:
        """A stream whose wire or other end is gone is silent: after T each side gives it up.

        Who is frozen then gives up nothing, and looks when it thaws.
        """
        for host in self.hosts.values():
            if host.keeper is not None:
                for session in host.keeper.streams.sessions.values():
                    self.world.after(self.timings.detection_s, None, self._silent, session)
                incoming = host.keeper.follower.incoming
                if incoming is not None:
                    self.world.after(self.timings.detection_s, None, self._silent, incoming)

    def _silent(self, session: Session) -> None:
        source, target = session.source.host, session.target.host
        wires = ((source.name, target.name), (target.name, source.name))
        ends = (session.source.keeper.alive, session.target.keeper.alive)
        left = session.target.incoming is not session
        dead = not all(ends) or source.frozen or target.frozen or left
        if not dead and not any(wire in self.world.cuts for wire in wires):
            return
        if session.alive and session.source.keeper.alive and not source.frozen:
            session.source.member_lost(target.name, "silent on its stream")
        if session.target.keeper.alive and not target.frozen:
            session.target.source_ended(session)

    # --- clients and operator -----------------------------------------------------------------------------

    def client(self) -> None:
        """The application writes, and now and then waits for its disk, wherever it runs."""
        chance = self.world.random
        # Now and then nobody asks anything of it: what was changed before is not changed again soon.
        idle_s = 2.0 + 2 * chance.random() if chance.random() < 0.02 else 0.0
        self.world.after(0.15 + 0.3 * chance.random() + idle_s, None, self.client, beat=True)
        for host in self.hosts.values() if self.world.now >= self.idle_until else ():
            keeper = host.keeper
            runs = host.service.application and not host.frozen
            if runs and keeper is not None and host.service.mount == keeper.life:
                self._use(keeper.gate)

    def _use(self, gate: Gate) -> None:
        """A change, and mostly an fsync; of a file in place, of one that is replaced, or of the directory."""
        chance = self.world.random
        file, durable, drawn = chance.randrange(FILES), chance.random() < 0.7, chance.random()
        if drawn < 0.75:
            gate.write(file, durable)
        elif gate.replace(file, durable) and drawn > 0.95:
            gate.fsync(DIRECTORY)

    def order(self, host: Host, order: Order, refused: bool = False) -> None:
        """An operator's request; `refused`: it must not be accepted."""
        if host.agent.node is None or host.frozen or host.agent.frozen:
            return
        self.requests += 1
        request = RequestId(f"r{self.requests}")
        self.world.note(f"operator {host.name} {order}")
        self.world.counts["order " + type(order).__name__] += 1
        self.world.disturb()
        self.asked[request] = (host, host.agent.life, order, refused)
        host.agent.tell(OperatorAsked(request, MODULE, order))

    def answered(self, request: RequestId, code: str) -> None:
        if request not in self.asked:
            raise Violation(f"request {request} was answered twice")
        host, _, order, refused = self.asked.pop(request)
        self.world.note(f"answer {host.name} {type(order).__name__} {code or 'accepted'}")
        self.world.counts["refused " + code if code else "accepted"] += 1
        if refused and not code:
            raise Violation(f"{host.name} accepted {order}, which had to be refused")

    def random_order(self) -> None:
        """Something an operator may do on any day, wise or not."""
        chance = self.world.random
        host = chance.choice(list(self.hosts.values()))
        if host.agent.node is None:
            return
        mirror = host.agent.node.mirrors[MODULE]
        serves = mirror.held is not None
        drawn = chance.random()
        if drawn < 0.4:
            self.order(host, Swap(), refused=not serves)
        elif drawn < 0.45:
            others = any(
                other.keeper and other.keeper.gate.open for other in self.hosts.values() if other is not host
            )
            stale = MODULE in host.agent.node.mirrors and not mirror.member and not others
            self.order(host, Promote(accept_data_loss=stale and not self.register.troubled))
        elif drawn < 0.55:
            self.order(host, Restart(), refused=not serves)
        elif drawn < 0.65:
            self.order(host, Start(first=True), refused=host.stored[0] > 0)
        elif drawn < 0.75:
            self.order(host, Leave())
            self.world.after(5.0 + 10 * chance.random(), None, self.order, host, Start())
        elif drawn < 0.85:
            self.order(host, Stop())
            self.world.after(5.0 + 10 * chance.random(), None, self.order, host, Start())
        elif drawn < 0.95:
            self.order(host, Promote(), refused=serves and not mirror.offline)
        else:
            self.order(host, Resync(), refused=mirror.life is None)

    def unanswered(self) -> None:
        for request, (host, life, order, _) in self.asked.items():
            if host.agent.life == life:
                raise Violation(f"{host.name} never answered request {request}: {order}")

    # --- the beginning and the end of an episode ----------------------------------------------------------

    def begin(self) -> None:
        """Everybody is switched on; the operator makes the first record; all copies become equal."""
        for host in self.hosts.values():
            host.power_on()
        self.client()
        self.world.run(self.world.now + 12.0)
        hosts = list(self.hosts.values())
        self.order(hosts[0], Start(first=True))
        for host in hosts[1:]:
            self.order(host, Start())
        self.converge()

    def heal(self) -> None:
        """No more faults: all wires, disks, machines and the register work, the operator wants the module."""
        world = self.world
        world.cuts.clear()
        world.loss = world.late = 0.0
        self.register.down = False
        self.idle_until = 0.0
        self.register.found_again()
        self.register.slow_s = self.register.lossy = 0.0
        for host in self.hosts.values():
            host.disk_bad = host.store_bad = False
            host.answer()
            if host.link_down:
                host.carrier(True)
            host.disk_slow_s = host.service.application_bad = host.service.address_bad = 0.0
            host.agent.crash_in = None
            host.look_dies = ""
            if host.frozen:
                host.thaw()
            if host.agent.frozen:
                host.agent.resume()
            self.revive(host)
        world.disturb()

    def nudge(self) -> None:
        """The operator starts what is stopped, and what failed on a disk that is repaired now."""
        for host in self.hosts.values():
            if host.agent.node is not None:
                mirror = host.agent.node.mirrors[MODULE]
                if not mirror.wanted or mirror.failed:
                    self.order(host, Start())

    def converge(self) -> None:
        """Exactly one primary, everybody else in sync, within the bound; or it is a fault of ours."""
        world = self.world
        began, bound_s = world.now, CONVERGED_S + self._rest_s()
        nudged = 0
        while self.not_converged():
            if world.now >= began + bound_s:
                raise Violation(f"not converged {bound_s:.0f} s after all was healed: {self.not_converged()}")
            if world.now > began + 4 + 30 * nudged:
                nudged += 1
                self.nudge()
            world.disturb()
            world.run(world.now + 1.0)
        self.unanswered()
        before = self.acknowledged
        world.disturb()
        world.run(world.now + 10.0)
        if self.acknowledged == before:
            raise Violation("converged, and yet no write is acknowledged")

    def _rest_s(self) -> float:
        """How long at most a member whose disk was slow is not waited for, though it is fast again."""
        keepers = [host.keeper for host in self.hosts.values() if host.keeper is not None]
        paces = [pacing for keeper in keepers for pacing in keeper.streams.pacing.values()]
        return max((pacing.rest_s() for pacing in paces), default=0.0)

    def not_converged(self) -> str:
        """What is missing to a healthy mirror; empty: nothing."""
        roles = sorted(host.agent.role for host in self.hosts.values())
        if roles != ["PRIM"] + ["SECOND"] * (len(self.names) - 1):
            return f"roles {roles}, record {self.register.record}"
        record = self.register.record
        assert record is not None
        if record.in_sync != frozenset(self.names):
            return f"in sync {sorted(record.in_sync)}"
        for name, host in self.hosts.items():
            serves = name == record.primary
            runs, claimed = host.service.application, host.service.claimed
            if runs is not serves or claimed is not serves or (serves and not host.pulse.answers()):
                return f"{name}: application {runs}, address {claimed}, primary {serves}"
        return ""


def link(one: str, two: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Both directions of one wire."""
    return (one, two), (two, one)


__all__ = ["MODULE", "WITNESS", "Cluster", "link"]
