"""How keepers begin and end on one machine: each is a new life of the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.model.events import ReplicatorLost, ReplicatorStopped, ReplicatorUp, StreamUp, VolumeFailed
from orchestrator.model.names import NodeName, Nonce
from tests.sim.keeper import Keeper

if TYPE_CHECKING:
    from tests.sim.host import Host


LOOK_S = 0.2
"""What a look at all files takes here: long enough to die in the middle of it."""


class Launcher:
    """Starts a keeper, finds it again, stops it, kills it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world
        self.module = host.module
        self.launching = False

    def start(self) -> None:
        """A keeper, or the one that runs already, tells of itself after a while."""
        if not self.launching:
            self.launching = True
            self.host.on_disk(0.1 + 0.2 * self.world.random.random(), self._launched, self.host.agent.life)

    def _launched(self, life: int) -> None:
        if life != self.host.agent.life:
            return
        self.launching = False
        if self.host.keeper is None:
            if self.host.disk_bad:
                self.host.agent.tell(ReplicatorLost(self.module, "the volume cannot be mounted"))
                return
            self.host.keeper = Keeper(self.host, self.new_life())
            self.host.on_disk(LOOK_S * self.world.random.random(), self._look, self.host.keeper)
        elif self.host.keeper.checked:
            self.say_status(self.host.keeper)

    def _look(self, keeper: Keeper) -> None:
        """Whether the copy is as it was left (F2); what is not is kept durably before it is believed (F4)."""
        if self.host.keeper is not keeper:
            return
        volume = self.host.volume
        if self.host.disk_bad:
            keeper.failed, keeper.checked = "its files could not be looked through", True
            self.say_status(keeper)
            return
        found = volume.findings()
        self.world.counts["edit listed"] += len(found)
        self.first(keeper, found)
        how, self.host.look_dies = self.host.look_dies, ""
        if how == "power cut":
            self.host.cluster.loses_power(self.host)
        elif how:
            self.world.fault("keeper crash", self.host.name)
            self.kill()
        else:
            self.world.after(0.01, self.host, self._looked, keeper, found)

    def _looked(self, keeper: Keeper, found: frozenset[int]) -> None:
        if self.host.keeper is not keeper:
            return
        self.then(keeper, found)
        self.host.volume.unseen.clear()
        self.host.volume.touched = True
        keeper.checked = True
        self.say_status(keeper)

    def first(self, keeper: Keeper, found: frozenset[int]) -> None:
        """The findings."""
        self.host.volume.keep(found)

    def then(self, keeper: Keeper, found: frozenset[int]) -> None:
        """The record of what is ours from now on."""
        self.host.volume.trust.believe(keeper.life)

    def say_status(self, keeper: Keeper) -> None:
        """What a running gate tells an agent that meets it."""
        tell = self.host.agent.tell
        tell(
            ReplicatorUp(
                self.module,
                keeper.life,
                keeper.gate.record,
                keeper.gate.required,
                keeper.gate.open,
                keeper.follower.following,
                self.host.service.application,
                self.host.service.claimed,
            )
        )
        if keeper.failed:
            tell(VolumeFailed(self.module, keeper.failed))
        for name in keeper.streams.sessions:
            tell(StreamUp(self.module, NodeName(name)))
        if keeper.follower.incoming is not None:
            tell(StreamUp(self.module, keeper.follower.incoming.source.host.name))
            if keeper.follower.offered is not None:
                keeper.follower.offer(keeper.follower.offered)
        keeper.streams.tell_ready()
        keeper.streams.watch_members()

    def new_life(self) -> Nonce:
        """R5: each life of a gate has a nonce of its own."""
        return Nonce(f"{self.world.random.getrandbits(128):032x}")

    def stop(self, keeper: Keeper | None) -> None:
        """This keeper ends, if it has not ended already; a volume that failed is mounted anew."""
        if self.host.awaited is not None:
            self.host.on_disk(0.0, self.stop, keeper)  # nothing is unmounted from a disk that hangs
            return
        if keeper is not None and self.host.keeper is keeper:
            failed = keeper.failed
            if keeper.checked and not failed:
                self.host.volume.trust.seal(self.host.volume.times)
            self.kill(tell=False)
            if failed:
                self.host.volume.forget()
        self.host.agent.tell(ReplicatorStopped(self.module))

    def kill(self, tell: bool = True) -> None:
        """The gate's life ends."""
        if self.host.keeper is not None:
            keeper, self.host.keeper = self.host.keeper, None
            keeper.die()
            self.world.disturb()
            if tell:
                self.host.agent.tell(ReplicatorLost(self.module, "killed"))

    def back(self, keeper: Keeper) -> None:
        """A new replicator beneath the same gate: it is found as it stands."""
        if self.host.keeper is keeper and keeper.checked:
            self.say_status(keeper)
            keeper.streams.dial_everybody()
