"""One machine: its power, its clock, what its disks hold, and the processes that run on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestrator.model.events import LinkLost, LinkRestored
from orchestrator.model.names import Epoch, Instant, ModuleName, NodeName
from orchestrator.model.record import Record
from tests.sim.agent import INTERFACE, Agent
from tests.sim.keeper import Keeper
from tests.sim.launcher import Launcher
from tests.sim.pulse import Pulse
from tests.sim.service import Service
from tests.sim.volume import Volume
from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

BACKLOG_MAX = 400
"""Messages that wait for a frozen node, as its socket buffers would hold; what is more is lost."""


class Host:
    """One machine of the simulated cluster."""

    def __init__(self, cluster: Cluster, name: NodeName, module: ModuleName) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.ghost = cluster.ghost
        self.timings = cluster.timings
        self.name = name
        self.module = module
        self.rate = 1.0
        self.rated_at = 0.0
        self.rated = 1000.0
        # On disk.
        self.stored: tuple[Epoch, bool] = (Epoch(0), False)
        self.volume = Volume([other for other in cluster.names if other != name], lambda: self.world.now)
        # The machine.
        self.boot = 0
        self.powered = False
        self.frozen = False
        self.backlog: deque[tuple[bool, Callable[..., None], tuple[Any, ...]]] = deque()
        self.disk_bad = False
        self.disk_slow_s = 0.0
        self.awaited: deque[tuple[float, int, Callable[..., None], tuple[Any, ...]]] | None = None
        """What waits for a disk that hangs: since when, and of which boot; None: it answers."""
        self.store_bad = False
        self.look_dies = ""
        """How the next look at this copy ends half-way: `crash`, `power cut`, or not at all."""
        self.link_down = False
        # What runs on it.
        self.pulse = Pulse(self)
        self.agent = Agent(self)
        self.launcher = Launcher(self)
        self.keeper: Keeper | None = None
        self.service = Service(self)

    # --- clocks -------------------------------------------------------------------------------------------

    def heart_now(self) -> float:
        """The clock without the stretches that were jumped over."""
        return self.rated + (self.world.at - self.rated_at) * self.rate

    def now(self) -> Instant:
        """This node's boot-time clock."""
        return Instant(self.heart_now() + self.world.skipped)

    def set_rate(self, rate: float) -> None:
        self.rated, self.rated_at, self.rate = self.heart_now(), self.world.at, rate
        self.agent.wake_later()

    # --- power --------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        assert not self.powered
        self.powered = True
        self.volume.boots()
        self.pulse.start()
        self.world.after(0.2 + self.world.random.random(), self, self.agent.start)

    def power_off(self) -> None:
        """A power cut: every process, every unsynced byte; any subset of it may have reached the disk."""
        self.boot += 1
        self.agent.kill()
        self.pulse.heart = None
        self.pulse.life += 1
        if self.keeper is not None:
            self.keeper.alive = False
            self.keeper.gate.open = False
            self.keeper = None
        self.powered = self.frozen = False
        self.backlog.clear()
        self.volume.trust.end()
        self.volume.lose_power(self.world.random)
        self.service.end()
        self.service.claim_turn += 1
        self.cluster.unplugged(self)

    def freeze(self) -> None:
        """Nothing runs here; what arrives waits."""
        self.frozen = True

    def thaw(self) -> None:
        """Everything that was due meanwhile happens now, late."""
        self.frozen = False
        self.agent.unsound_until = self.world.at
        backlog, self.backlog = self.backlog, deque()
        while len(backlog) > BACKLOG_MAX:
            backlog.popleft()
        if self.pulse.heart is not None:
            self.pulse.pump(advance=True)
        for beat, do, args in backlog:
            self.world.after(0.0, self, do, *args, beat=beat)
        self.agent.resume()
        self.cluster.watch_streams()

    # --- disk and wire ------------------------------------------------------------------------------------

    def carrier(self, present: bool) -> None:
        """The cable of the clients' network is pulled out, or put back."""
        self.link_down = not present
        kind = LinkRestored if present else LinkLost
        self.agent.tell(kind(self.module, INTERFACE))

    def on_disk(self, took_s: float, do: Callable[..., None], *args: Any) -> None:
        """This follows when the disk has answered; it may never."""
        if self.awaited is None:
            self.world.after(took_s, self, do, *args)
            return
        self.awaited.append((self.world.at, self.boot, do, args))
        if self.keeper is not None:
            self.keeper.watch_disk()

    def waited_s(self) -> float:
        """For how long the first answer is awaited that the disk owes."""
        return self.world.at - self.awaited[0][0] if self.awaited else 0.0

    def hang(self) -> None:
        """From now on its disk answers nothing."""
        if self.awaited is None:
            self.awaited = deque()

    def answer(self) -> None:
        """The disk is back, with everything that it was asked meanwhile."""
        awaited, self.awaited = self.awaited or deque(), None
        for _, boot, do, args in awaited:
            if boot == self.boot:
                self.world.after(0.0, self, do, *args)

    def store(self, epoch: Epoch, wanted: bool) -> bool:
        """The state disk keeps this; False: it is broken."""
        if self.store_bad:
            self.world.counts["store refused"] += 1
            return False
        if epoch < self.stored[0]:
            raise Violation(f"{self.name} stores epoch {epoch} after {self.stored[0]}")
        self.stored = (epoch, wanted)
        return True

    def before_use(self, record: Record, did: str) -> None:
        """R4: an epoch is durable before it is used."""
        if self.stored[0] < record.epoch:
            raise Violation(f"{self.name} {did} under epoch {record.epoch} with {self.stored[0]} on disk")
