"""All clouds of one node: their workers, who has which address, and leave to change something."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.host import clock
from orchestrator.model.config import ClusterConfig, VipConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import Epoch, ModuleName, NodeName
from orchestrator.providers.client import WorkerClient
from orchestrator.providers.detect import provider_here
from orchestrator.providers.faults import WorkerSaid
from orchestrator.providers.mover import Choice, Vip, Wish, place_of
from orchestrator.providers.provider import Finding, Owner, Sight

RECONCILE_S: Final = 5.0
"""Between two looks. Clouds count requests: a look is one for all addresses of a kind, twelve a minute."""
OBSERVE_S: Final = 10.0
PREFLIGHT_S: Final = 30.0
"""A dozen requests, one after the other."""
LEAVE_S: Final = 2.0
"""The longest that a leave holds, where the lease runs longer; a request leaves within milliseconds."""
LEASE_WAIT_S: Final = 1.0
LOOK_AGAIN_S: Final = 0.02
CLAIM: Final = "claim"
RELEASE: Final = "release"
PREFLIGHT: Final = "preflight"
FENCE: Final = "fence"
"""With the node behind it, as the verb for which leave is asked."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What this node knows of its own right to one module's addresses."""

    held: Epoch | None
    """The epoch it serves under; None: it does not."""
    lease_s: float
    """For how long its answers for the addresses are good, by the pulse."""


class Clouds:
    """Nothing runs where no address needs it."""

    def __init__(
        self,
        config: ClusterConfig,
        me: NodeName,
        log_dir: str,
        standing: Callable[[ModuleName], Awaitable[Standing]],
        told: Callable[[str, str, str], None],
    ) -> None:
        self.me = me
        self.config = config
        self.sights: dict[str, Sight | str] = {}
        """By address, as seen last; text: why it could not be seen."""
        self.on_look: list[Callable[[], None]] = []
        """Called after each look."""
        self.told = told
        self.fence_refused: Callable[[NodeName, ModuleName], str] = lambda *_: "no fence is under way"
        """Why a node may not be switched off now by whoever holds the module's record; nothing: it may."""
        self._log_dir = log_dir
        self._standing = standing
        self._wishes: dict[ModuleName, Wish] = {}
        self._here: tuple[str, str] | None = None
        self._workers: dict[str, WorkerClient] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._choices: dict[str, Choice | HafarmError] = {}

    # --- who moves what ---------------------------------------------------------------------------------

    def taken(self, vip: VipConfig) -> str:
        """The provider of an address."""
        return self.here()[0] if vip.provider == "auto" else vip.provider

    def here(self) -> tuple[str, str]:
        """What `auto` means on this machine, and why."""
        if self._here is None:
            self._here = provider_here()
        return self._here

    def worker(self, name: str) -> WorkerClient:
        """Of this provider; the first call begins its life and the looks at what it moves."""
        if name not in self._workers:
            place = place_of(self.config, self.me, name, self.taken, self.config.health_port)
            log = os.path.join(self._log_dir, f"provider-{name}.log")
            self._workers[name] = WorkerClient(
                name, place, log, self._may, lambda text: self.told("", "HF7014", text)
            )
            self._looking[name] = asyncio.create_task(self._look_on(name))
        return self._workers[name]

    async def choice(self, vip: VipConfig, address: str) -> Choice:
        """How an address is moved; raises what forbids it. What was wrong is asked again."""
        known = self._choices.get(address)
        if not isinstance(known, Choice):
            answer = await self.worker(self.taken(vip)).ask("choices", OBSERVE_S)
            self._choices |= {key: _choice(value) for key, value in answer.items()}
            known = self._choices[address]
        if isinstance(known, HafarmError):
            raise known
        return known

    def chosen(self, address: str) -> Choice | None:
        """As far as it is known now."""
        known = self._choices.get(address)
        return known if isinstance(known, Choice) else None

    def own_addresses(self) -> tuple[str, ...]:
        """This node's, in the file's order."""
        return tuple(self.config.node(self.me).addresses.values())

    async def preflight(self, name: str, repair: bool) -> list[Finding]:
        """What of one provider would refuse or disturb a claim."""
        answer = await self.worker(name).ask(
            "preflight", PREFLIGHT_S, module="", verb=PREFLIGHT, epoch=0, repair=repair
        )
        return [Finding(*each) for each in answer["findings"]]

    async def switch(
        self, node: NodeName, order: str, module: ModuleName, epoch: Epoch, time_s: float, **more: Any
    ) -> Mapping[str, Any]:
        """`order`: switch_off or switch_on, of another node's machine, by right of the module's record."""
        assert self.config.fence is not None
        verb = f"{FENCE} {node}"
        words = {"module": module, "verb": verb, "epoch": epoch, "node": node, **more}
        return await self.worker(self.config.fence.provider).ask(order, time_s, **words)

    # --- leave ------------------------------------------------------------------------------------------

    def wish(self, module: ModuleName, wish: Wish) -> None:
        """From now on this alone is wanted for the module."""
        self._wishes[module] = wish

    def wished(self, module: ModuleName) -> Wish | None:
        """What is wanted for it now."""
        return self._wishes.get(module)

    async def _may(self, module: ModuleName, verb: str, epoch: Epoch) -> tuple[float, str]:
        """Whether a request may leave now. A claim rests on the lease that the pulse keeps: what answers for
        an address here has ended before a successor begins, and so has the right to move it. So does a fence:
        of two nodes that lost each other only one holds the record, and it alone may switch the other off."""
        begun = asked = clock.now()
        if verb == PREFLIGHT:
            return asked + LEAVE_S, ""
        if why := self._unwanted(module, verb, epoch):
            return 0.0, why
        if verb == RELEASE:
            return asked + LEAVE_S, ""
        try:
            standing = await self._standing(module)
            while standing.lease_s <= 0 and standing.held is not None and clock.now() < begun + LEASE_WAIT_S:
                # It is ordered beside the claim: the claim may be first.
                await asyncio.sleep(LOOK_AGAIN_S)
                asked = clock.now()
                standing = await self._standing(module)
        except (HafarmError, OSError, TimeoutError) as fault:
            return 0.0, f"the lease is not known: {str(fault) or type(fault).__name__}"
        # The epoch may have grown meanwhile, as when a member joined: a role that was lost is released first.
        if standing.held is None or standing.held < epoch:
            return 0.0, f"this node does not serve under epoch {epoch} any more"
        if why := self._unwanted(module, verb, epoch):
            return 0.0, why
        if standing.lease_s <= 0:
            return 0.0, "the lease has ended: another node may serve"
        # From before the pulse was asked: it may have answered late.
        return asked + min(LEAVE_S, standing.lease_s), ""

    def _unwanted(self, module: ModuleName, verb: str, epoch: Epoch) -> str:
        """Why what was ordered is not wanted any more; nothing: it is."""
        name, _, node = verb.partition(" ")
        if name == FENCE:
            return self.fence_refused(NodeName(node), module)
        return "" if self._wishes.get(module) == Wish(verb, epoch) else "something else is wanted by now"

    async def held(self, module: ModuleName) -> Epoch | None:
        """The epoch that this node serves the module under now, where it does and that is known."""
        try:
            return (await self._standing(module)).held
        except (HafarmError, OSError, TimeoutError):
            return None

    # --- looking ----------------------------------------------------------------------------------------

    async def look(self, name: str) -> None:
        """Ask who has all the addresses of one provider."""
        try:
            seen = await self._workers[name].ask("observe", OBSERVE_S)
        except HafarmError as fault:
            of = [vip.address for vip in self._place_vips(name)]
            self.sights |= dict.fromkeys(of, str(fault))
            # Now, and not on the day when the address is to move.
            self.told("", fault.told if isinstance(fault, WorkerSaid) else fault.code, str(fault))
        else:
            self.sights |= {address: _sight(told) for address, told in seen.items()}
            for address, told in seen.items():
                if "error" in told:
                    self.told("", str(told["error"]["code"]), f"{address}: {told['error']['text']}")
        for hear in self.on_look:
            hear()

    def _place_vips(self, name: str) -> tuple[Vip, ...]:
        return place_of(self.config, self.me, name, self.taken, 0).vips

    async def _look_on(self, name: str) -> None:
        while True:
            await self.look(name)
            await asyncio.sleep(RECONCILE_S)

    async def close(self) -> None:
        """The agent ends; what is moved stays where it is."""
        for task in self._looking.values():
            task.cancel()
        await asyncio.gather(*self._looking.values(), return_exceptions=True)
        for worker in self._workers.values():
            await worker.close()


def _sight(told: Mapping[str, Any]) -> Sight | str:
    if "error" in told:
        return str(told["error"]["text"])
    return Sight(Owner(told["owner"]), frozenset(NodeName(name) for name in told["nodes"]), told["detail"])


def _choice(told: Mapping[str, Any]) -> Choice | HafarmError:
    if "error" in told:
        error = told["error"]
        return WorkerSaid(str(error["code"]), str(error["text"]), bool(error["again"]))
    return Choice(str(told["mode"]), bool(told["local"]), str(told["why"]))
