"""What goes wrong: bursts of faults, each with its end, and quiet stretches between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.model.names import Epoch
from orchestrator.model.orders import Leave, Promote, Restart, Start, Stop, Swap
from tests.sim.cluster import Cluster, link
from tests.sim.edits import MOUNTED, SEALED
from tests.sim.host import Host
from tests.sim.register import WITNESS
from tests.sim.volume import EXTENTS

BURST_S = 12.0
"""Faults of one burst fall into so short a time that each meets the others' consequences."""
CALM_S = 45.0
"""After the beginning of a burst mostly all is well again, and what goes wrong then goes wrong alone."""
FORGETTING = frozenset({"_power_cut", "_disk_error", "_old_disk", "_bad_successor"})
"""Faults after which a page cache is gone."""
EDIT_AFTER_S = 2.0
"""A crash is so long ago that an edit is no write of ours by its time."""
LOOKS = 100
"""For the next copy into a node, over five seconds."""
BRIEF_S = 1.2
"""A wire is cut for so short a time that nobody is given up for it."""
UNUSED_S = 20.0
"""Nobody asks anything of the application: a machine fails, returns, and is taken in again meanwhile."""
QUIET_S = 3600.0
"""The mean quiet stretch between two bursts."""


class Storm:
    """Draws faults for one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.kinds: tuple[tuple[Callable[[Host], None], int], ...] = (
            (self._power_cut, 8),
            (self._agent_crash, 8),
            (self._crash_between_effects, 10),
            (self._keeper_crash, 6),
            (self._replicator_restart, 4),
            (self._pulse_crash, 4),
            (self._pause, 5),
            (self._agent_pause, 3),
            (self._cut_peer, 8),
            (self._cut_one_way, 8),
            (self._isolate, 5),
            (self._cut_witness, 6),
            (self._disk_error, 3),
            (self._store_error, 3),
            (self._clock, 3),
            (self._register_outage, 4),
            (self._register_trouble, 6),
            (self._register_loss, 3),
            (self._link_loss, 4),
            (self._edit, 6),
            (self._old_disk, 4),
            (self._slow_disk, 4),
            (self._hung_disk, 3),
            (self._bad_successor, 3),
            (self._broken_copy, 5),
        )
        if cluster.module.ack == "memory":
            # Two copies in memory do not outlive two power cuts; guarantees.md says so, and a story shows it.
            self.kinds = tuple(
                (kind, weight) for kind, weight in self.kinds if kind.__name__ not in FORGETTING
            )
        self.draws = [kind for kind, weight in self.kinds for _ in range(weight)]

    def burst(self, until: float) -> None:
        """Some faults within seconds, then quiet."""
        chance = self.world.random
        if self.world.now >= until:
            return
        self._planned()
        long_s = BURST_S if chance.random() < 0.7 else 2.0
        for _ in range(chance.randint(4, 20)):
            self.world.after(long_s * chance.random(), None, self._strike)
        if chance.random() < 0.4:
            self.world.after(BURST_S, None, self._disaster)
        if chance.random() < 0.5:
            kinds = [self._hang_the_primary, self._slow_a_member]
            if self.cluster.module.ack == "disk":
                kinds += [self._fail_the_successor, self._end_a_copy]
            self.world.after(CALM_S, None, chance.choice(kinds))
        if chance.random() < 0.5:
            self.world.after(BURST_S * chance.random(), None, self.cluster.random_order)
        if chance.random() < 0.3:
            self.world.after(BURST_S * chance.random(), None, self._trouble)
        self.world.much_later(2 * BURST_S + chance.expovariate(1 / QUIET_S), None, self.burst, until)

    def _planned(self) -> None:
        """An order to a healthy mirror, while the first faults are on their way."""
        chance, record = self.world.random, self.cluster.register.record
        if record is not None and chance.random() < 0.6:
            primary = self.cluster.hosts[record.primary]
            order = chance.choice([Swap(), Swap(), Swap(), Leave(), Stop(), Restart()])
            self.cluster.order(primary, order)
            if isinstance(order, Swap) and chance.random() < 0.4:
                self.world.after(0.3 * chance.random(), None, self._cut_briefly, primary)
            if isinstance(order, Leave | Stop):
                self.world.after(3.0 + 10 * chance.random(), None, self.cluster.order, primary, Start())

    def _strike(self) -> None:
        host = self.world.random.choice(list(self.cluster.hosts.values()))
        self.world.random.choice(self.draws)(host)

    def _later(self, longest_s: float, end: Callable[..., None], *args: object) -> None:
        """The end of a fault: mostly soon, sometimes only after a long while."""
        chance = self.world.random
        if chance.random() < 0.9:
            self.world.after(0.05 + longest_s * chance.random(), None, end, *args)
        else:
            self.world.much_later(600 * chance.random(), None, end, *args)

    def _trouble(self) -> None:
        """Not faults of a machine: a bad wire, a bad application, a refused address, an operator."""
        chance, host = self.world.random, self.world.random.choice(list(self.cluster.hosts.values()))
        self.world.disturb()
        drawn = chance.random()
        if drawn < 0.4:
            self.world.loss, self.world.late = 0.3 * chance.random(), 0.1 * chance.random()
            self.world.after(10.0 * chance.random(), None, self._calm)
        elif drawn < 0.7:
            host.service.dies()
        elif drawn < 0.85:
            host.service.application_bad = 0.7
            self.world.after(10.0, None, self._well, host)
        else:
            host.service.address_bad = 0.7
            self.world.after(10.0, None, self._well, host)

    def _calm(self) -> None:
        self.world.loss = self.world.late = 0.0

    def _well(self, host: Host) -> None:
        host.service.application_bad = host.service.address_bad = 0.0

    # --- machines and processes ---------------------------------------------------------------------------

    def _power_cut(self, host: Host) -> None:
        if host.powered:
            self.world.fault("power cut", host.name)
            host.power_off()
            self._later(10.0, self.cluster.revive, host)

    def _agent_crash(self, host: Host) -> None:
        if host.agent.node is not None:
            self.world.fault("agent crash", host.name)
            host.agent.kill()
            self._later(8.0, self.cluster.revive, host)

    def _crash_between_effects(self, host: Host) -> None:
        if host.agent.node is not None:
            host.agent.crash_in = self.world.random.randint(1, 10)
            kept = self.cluster.module.ack == "disk"
            host.agent.crash_power = self.world.random.random() < 0.4 and kept

    def _keeper_crash(self, host: Host) -> None:
        if host.keeper is not None:
            self.world.fault("keeper crash", host.name)
            host.launcher.kill()

    def _replicator_restart(self, host: Host) -> None:
        if host.keeper is not None:
            self.world.fault("replicator crash", host.name)
            host.keeper.reset("the replicator ended")
            self.world.after(0.3, host, host.launcher.back, host.keeper)

    def _pulse_crash(self, host: Host) -> None:
        if host.pulse.heart is not None:
            self.world.fault("pulse crash", host.name)
            host.pulse.kill()
            self._later(3.0, self.cluster.revive, host)

    def _pause(self, host: Host) -> None:
        if host.powered and not host.frozen:
            self.world.fault("pause", host.name)
            host.freeze()
            self.cluster.watch_streams()
            self.world.after(6.0 * self.world.random.random(), host, lambda: None)
            self.world.after(6.0 * self.world.random.random(), None, self._thaw, host, host.boot)

    def _thaw(self, host: Host, boot: int) -> None:
        if host.boot == boot and host.frozen:
            self.world.disturb()
            host.thaw()

    def _agent_pause(self, host: Host) -> None:
        if host.agent.node is not None and not host.agent.frozen:
            self.world.fault("agent pause", host.name)
            host.agent.frozen = True
            life = host.agent.life
            self.world.after(6.0 * self.world.random.random(), None, self._agent_thaw, host, life)

    def _agent_thaw(self, host: Host, life: int) -> None:
        if host.agent.life == life and host.agent.frozen:
            host.agent.resume()

    # --- somebody else ------------------------------------------------------------------------------------

    def _edit(self, host: Host) -> None:
        """Nothing of ours covers the files for a while, and somebody changes one of them."""
        chance, world = self.world.random, self.world
        if host.keeper is None or not host.keeper.checked or host.frozen or not host.volume.lineage:
            return
        drawn = chance.random()
        if drawn < 0.3 and self.cluster.module.ack == "disk":
            world.fault("power cut", host.name)
            host.power_off()
            world.after(1.0 + 5 * chance.random(), None, self._edit_at_boot, host)
        elif drawn < 0.7:
            world.fault("agent crash", host.name)
            world.fault("keeper crash", host.name)
            host.agent.kill()
            host.launcher.kill(tell=False)
            world.after(EDIT_AFTER_S + chance.random(), host, self._change, host, "after a crash")
            world.after(EDIT_AFTER_S + 1 + 8 * chance.random(), None, self.cluster.revive, host)
        else:
            self.cluster.order(host, chance.choice([Leave(), Stop()]))
            world.after(1.0, host, self._edit_when_stopped, host, 10)
            world.after(12.0 + 10 * chance.random(), None, self.cluster.order, host, Start())

    def _edit_at_boot(self, host: Host) -> None:
        """Before anything of ours has started."""
        if not host.powered:
            self.cluster.revive(host)
            self.world.after(0.1, host, self._change, host, "after a power cut")

    def _edit_when_stopped(self, host: Host, looks: int) -> None:
        if host.keeper is None and host.volume.trust.kind == SEALED:
            self._change(host, "after a stop")
        elif looks:
            self.world.after(1.0, host, self._edit_when_stopped, host, looks - 1)

    def _change(self, host: Host, when: str) -> None:
        chance, volume = self.world.random, host.volume
        noted = volume.trust.noted or 0.0
        if host.keeper is not None or host.disk_bad or not volume.lineage:
            return
        if volume.trust.kind == MOUNTED and self.world.now < noted + EDIT_AFTER_S:
            return
        self.world.fault(f"edit {when}", host.name)
        extent = chance.randrange(EXTENTS)
        over = {volume.memory[extent], volume.disk[extent]}
        volume.edit(extent, host.ghost.edit(host.name, extent, over))
        if chance.random() < 0.3:
            cut = self.cluster.module.ack == "disk" and chance.random() < 0.5
            host.look_dies = "power cut" if cut else "crash"

    def _old_disk(self, host: Host) -> None:
        """A machine fails, and comes back with its own disk as it was some moments ago."""
        if host.powered and host.keeper is not None and host.volume.lineage:
            image, stored = host.volume.image(), host.stored
            self.world.after(1.0 + 3 * self.world.random.random(), None, self._fails, host, image, stored)

    def _fails(self, host: Host, image: dict[str, Any], stored: tuple[Epoch, bool]) -> None:
        if host.powered:
            self.world.fault("power cut", host.name)
            host.power_off()
            if self.world.random.random() < 0.5:
                # What was written between is not written again, so that no log comes to name it for that.
                self.cluster.idle_until = self.world.now + UNUSED_S
            self.world.after(1.5, None, self._roll_back, host, image, stored, 30)

    def _roll_back(self, host: Host, image: dict[str, Any], stored: tuple[Epoch, bool], looks: int) -> None:
        """Only where nobody counts on what it has, and within one epoch: docs/guarantees.md."""
        if host.powered:
            return
        if self.cluster.counts_on(host) and looks:
            self.world.after(0.3, None, self._roll_back, host, image, stored, looks - 1)
            return
        if not self.cluster.counts_on(host) and host.stored == stored:
            self.world.fault("old disk", host.name)
            host.volume.roll_back(image, self.world.random)
            self.cluster.ghost.rolled_back([other.volume for other in self.cluster.hosts.values()])
        self._later(1.0, self.cluster.revive, host)

    # --- wires --------------------------------------------------------------------------------------------

    def _cut(self, kind: str, wires: tuple[tuple[str, str], ...]) -> None:
        self.world.fault(kind, str(wires))
        for wire in wires:
            self.cluster.cut(*wire)
        self._later(8.0, self._heal, wires)

    def _heal(self, wires: tuple[tuple[str, str], ...]) -> None:
        self.world.fault("heal")
        self.world.cuts.difference_update(wires)

    def _other(self, host: Host) -> str:
        return self.world.random.choice([name for name in self.cluster.hosts if name != host.name])

    def _cut_peer(self, host: Host) -> None:
        self._cut("cut", link(host.name, self._other(host)))

    def _cut_one_way(self, host: Host) -> None:
        self._cut("one-way cut", (link(host.name, self._other(host))[self.world.random.randrange(2)],))

    def _cut_briefly(self, host: Host) -> None:
        """What this node sends arrives nowhere, for a moment in which it gives its role away."""
        wires = tuple((host.name, name) for name in self.cluster.hosts if name != host.name)
        self.world.fault("one-way cut", str(wires))
        for wire in wires:
            self.cluster.cut(*wire)
        self.world.after(BRIEF_S, None, self._heal, wires)

    def _isolate(self, host: Host) -> None:
        others = [name for name in self.cluster.hosts if name != host.name] + [WITNESS]
        self._cut("isolation", tuple(wire for name in others for wire in link(host.name, name)))

    def _cut_witness(self, host: Host) -> None:
        wires = link(host.name, WITNESS)
        drawn = self.world.random.randrange(3)
        self._cut("cut from the register", wires if drawn == 2 else (wires[drawn],))

    # --- disks, clocks, the register ----------------------------------------------------------------------

    def _disk_error(self, host: Host) -> None:
        self.world.fault("disk error", host.name)
        host.disk_bad = True
        self._later(5.0, self._repair, host)

    def _slow_disk(self, host: Host) -> None:
        self.world.fault("slow disk", host.name)
        host.disk_slow_s = 0.2 + 2.5 * self.world.random.random()
        self._later(20.0, self._repair, host)

    def _hung_disk(self, host: Host) -> None:
        if host.awaited is None:
            self.world.fault("hung disk", host.name)
            host.hang()
            self._later(60.0, self._disk_answers, host)

    def _hang_the_primary(self) -> None:
        """While nothing else is wrong, so that another could have the role."""
        record = self.cluster.register.record
        if record is not None:
            self._hung_disk(self.cluster.hosts[record.primary])

    def _slow_a_member(self) -> None:
        """In the same way."""
        record = self.cluster.register.record
        members = sorted(record.in_sync - {record.primary}) if record is not None else []
        if members:
            self._slow_disk(self.cluster.hosts[self.world.random.choice(members)])

    def _fail_the_successor(self) -> None:
        """The primary is lost while all else is well, and the disk of who takes over fails before that."""
        record = self.cluster.register.record
        if record is not None:
            self._bad_successor(self.cluster.hosts[record.primary])

    def _disk_answers(self, host: Host) -> None:
        self.world.disturb()
        host.answer()
        self.world.after(2.0, None, self.cluster.nudge)

    def _bad_successor(self, host: Host) -> None:
        """A node loses its power, and before another has taken over, that one's disk fails."""
        other = self.cluster.hosts[self._other(host)]
        self._power_cut(host)
        self.world.after(2 * self.world.random.random(), None, self._disk_error, other)

    def _broken_copy(self, host: Host, looks: int = LOOKS) -> None:
        """The next copy into this node ends in its middle."""
        keeper = host.keeper
        session = keeper.follower.incoming if keeper is not None else None
        if session is None or not session.copying or session.ready_at or not session.alive:
            if looks:
                self.world.after(0.05, None, self._broken_copy, host, looks - 1)
            return
        self.world.counts["copy broken"] += 1
        self.world.random.choice((self._replicator_restart, self._keeper_crash, self._cut_peer))(host)

    def _end_a_copy(self) -> None:
        """A member's replicator restarts, and whoever copies to it then loses its power in the middle."""
        record = self.cluster.register.record
        members = sorted(record.in_sync - {record.primary}) if record is not None else []
        if members:
            member = self.cluster.hosts[self.world.random.choice(members)]
            self._replicator_restart(member)
            self._lose_the_source(member, LOOKS)

    def _lose_the_source(self, host: Host, looks: int) -> None:
        session = host.keeper.follower.incoming if host.keeper is not None else None
        if session is not None and session.alive and session.copying is not None and not session.ready:
            self._power_cut(session.source.host)
        elif looks:
            self.world.after(0.05, None, self._lose_the_source, host, looks - 1)

    def _repair(self, host: Host) -> None:
        host.disk_bad = host.store_bad = False
        host.disk_slow_s = 0.0
        self.world.disturb()
        self.world.after(2.0, None, self.cluster.nudge)

    def _store_error(self, host: Host) -> None:
        self.world.fault("state disk error", host.name)
        host.store_bad = True
        host.disk_slow_s = self.world.random.random()
        self._later(5.0, self._repair, host)

    def _clock(self, host: Host) -> None:
        self.world.fault("clock change", host.name)
        host.set_rate(1 + 0.01 * (2 * self.world.random.random() - 1))

    def _register_outage(self, host: Host) -> None:
        if not self.cluster.register.down:
            self.world.fault("register outage")
            self.cluster.register.down = True
            self._later(10.0, self._register_back)

    def _register_back(self) -> None:
        self.cluster.register.down = False
        self.world.disturb()

    def _register_trouble(self, host: Host) -> None:
        register, chance = self.cluster.register, self.world.random
        if not register.lossy:
            self.world.fault("register slow and lossy")
            register.slow_s, register.lossy = 3.0 * chance.random(), 0.5 * chance.random()
            self._later(15.0, self._register_well)

    def _register_loss(self, host: Host) -> None:
        """Its record is gone, or an old one is back; an operator repairs it."""
        known = min(host.stored[0] for host in self.cluster.hosts.values())
        if self.cluster.register.lose(known):
            self.world.fault("register lost")
            self._later(15.0, self._register_found)

    def _register_found(self) -> None:
        self.cluster.register.found_again()
        self.world.disturb()

    def _link_loss(self, host: Host) -> None:
        if host.powered and not host.link_down:
            self.world.fault("link lost", host.name)
            host.carrier(False)
            self._later(10.0, self._link_back, host)

    def _link_back(self, host: Host) -> None:
        if host.link_down:
            self.world.disturb()
            host.carrier(True)

    def _disaster(self) -> None:
        """The only good copy is gone for long, and an operator promotes a stale one."""
        cluster, record = self.cluster, self.cluster.register.record
        if record is None or len(record.in_sync) > 1 or cluster.module.ack == "memory":
            return
        last = cluster.hosts[record.primary]
        if last.powered and not cluster.register.troubled:
            self.world.fault("power cut", last.name)
            last.power_off()
            stale = self.world.random.choice([host for host in cluster.hosts.values() if host is not last])
            self.world.after(10.0, None, self._promote, stale)
            self.world.after(30.0, None, cluster.revive, last)
            if self.world.random.random() < 0.7:
                self.world.after(30.0, None, self._broken_copy, last)

    def _promote(self, host: Host) -> None:
        if not self.cluster.register.troubled:
            self.cluster.order(host, Promote(accept_data_loss=True))

    def _register_well(self) -> None:
        self.cluster.register.slow_s = self.cluster.register.lossy = 0.0
        self.world.disturb()
