"""One module's virtual IPs, wherever they are: first the cloud leads an address here, then it is put here."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from orchestrator.host.netlink import Netlink
from orchestrator.model.config import MirrorConfig, VipConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.names import NEVER, Epoch, NodeName
from orchestrator.providers.clouds import CLAIM, RELEASE, Clouds
from orchestrator.providers.faults import ProviderUnreachable, Superseded, WorkerSaid
from orchestrator.providers.mover import Choice, Wish, bare
from orchestrator.providers.onprem.vip import OnPrem
from orchestrator.providers.provider import Finding, HeldAddress, Owner, ProviderEvent, Sight

CLAIM_S: Final = 25.0
"""Then it counts as refused, and is tried again or elsewhere: AWS takes 5 s, throttled 15."""
ATTEMPT_S: Final = 12.0
"""One attempt: a look, one request per part, and looks until it shows."""
FIRST_PAUSE_S: Final = 0.2
PAUSE_MAX_S: Final = 2.0
"""Between attempts, doubled each time: a cloud that throttles wants less of us, and clients wait."""
RELEASE_S: Final = 10.0
CLOSE_S: Final = 5.0
"""How long the agent's end waits for a release that is under way."""


@dataclass(frozen=True, slots=True)
class Told:
    """What people are shown of one address."""

    provider: str
    mode: str
    why: str
    owner: str
    detail: str
    missing: Mapping[str, str]


class Addresses:
    """Keeps `providers.provider.Provider` for one module; without a cloud it is `OnPrem` and nothing more."""

    def __init__(
        self,
        module: MirrorConfig,
        clouds: Clouds,
        on_event: Callable[[ProviderEvent], None],
        tell: Callable[[str, str], None],
    ) -> None:
        self._module = module
        self._clouds = clouds
        self._on_event = on_event
        self._tell = tell
        self._cloud = {bare(vip.address): vip for vip in module.vip if clouds.taken(vip) != "onprem"}
        self._plain = [vip for vip in module.vip if bare(vip.address) not in self._cloud]
        self._local = OnPrem(module.name, module.vip, on_event)
        self._interface = ""
        self._put: tuple[VipConfig, ...] = module.vip
        """What `_local` keeps."""
        self._reign = NEVER
        """Under which the addresses were claimed; NEVER: they are not wanted here."""
        self._expected: frozenset[NodeName] = frozenset(module.nodes) - {clouds.me}
        self._missing: dict[str, Mapping[str, str]] = {}
        self._faults: dict[str, str] = {}
        self._told: dict[str, Choice] = {}
        self._taking_back: asyncio.Task[None] | None = None
        self._letting_go: set[asyncio.Task[None]] = set()

    # --- the contract -----------------------------------------------------------------------------------

    async def start(self, held: bool) -> None:
        """Watch; with a cloud its worker is warmed, which nobody waits for."""
        if self._cloud:
            await self._begin_in_cloud(held)
        await self._local.start(held)

    async def _begin_in_cloud(self, held: bool) -> None:
        self._interface, here = await self._look_here()
        # Of an earlier agent's addresses those stay that it had put here; else all of them are left-overs.
        kept = [vip for address, vip in self._cloud.items() if not held or address in here]
        self._make_local(kept)
        self._clouds.on_look.append(self._looked)
        if held:
            # The machine tells the epoch with the first question about it; any that it serves under is good.
            self._reign = Epoch(1)
            self._clouds.wish(self._module.name, Wish(CLAIM, self._reign))
        for name in {self._clouds.taken(vip) for vip in self._cloud.values()}:
            self._clouds.worker(name)

    async def observe(self) -> Sight:
        """Of a cloud's addresses what was seen last: whoever asks has no time for a cloud's answer."""
        local = await self._local.observe()
        if local.owner is not Owner.MINE:
            return local
        seen = [
            sight for address in self._cloud if isinstance(sight := self._clouds.sights.get(address), Sight)
        ]
        return next((sight for sight in seen if sight.owner is not Owner.MINE), local)

    async def is_here(self) -> bool:
        """Whether this machine answers for them; where a cloud leads them is looked after beside it."""
        return (await self._local.observe()).owner is Owner.MINE

    async def claim(self, expected: frozenset[NodeName], epoch: Epoch) -> None:
        """The cloud first: an address that is here and led elsewhere would be answered in vain."""
        if self._cloud:
            wish = Wish(CLAIM, epoch)
            self._expected = expected
            self._clouds.wish(self._module.name, wish)
            moves = [self._claim_one(address, vip, wish, CLAIM_S) for address, vip in self._cloud.items()]
            results = await asyncio.gather(*moves, return_exceptions=True)
            for fault in results:
                if isinstance(fault, BaseException):
                    raise fault
            await self._fit_local()
            if self._clouds.wished(self._module.name) != wish:
                raise Superseded("the claim", "the role was given up meanwhile")
            self._reign = epoch
        await self._local.claim(expected, epoch)

    async def release(self, epoch: Epoch) -> None:
        """Gone from here when it returns; the cloud is told beside it, and nobody waits for that."""
        if self._cloud:
            self._reign = NEVER
            self._missing.clear()
            self._clouds.wish(self._module.name, Wish(RELEASE, epoch))
            if self._taking_back is not None:
                self._taking_back.cancel()
        await self._local.release(epoch)
        if self._cloud:
            task = asyncio.create_task(self._let_go(epoch))
            self._letting_go.add(task)
            task.add_done_callback(self._letting_go.discard)

    async def announce(self) -> None:
        await self._local.announce()

    def held(self) -> list[HeldAddress]:
        return self._local.held()

    @property
    def conflicts(self) -> dict[str, str]:
        return self._local.conflicts

    async def preflight(self) -> list[Finding]:
        """What would refuse or disturb a claim, here and in the cloud."""
        found = await self.preflight_here()
        for name in sorted({self._clouds.taken(vip) for vip in self._cloud.values()}):
            found += await self._clouds.preflight(name, repair=False)
        return found

    async def preflight_here(self) -> list[Finding]:
        """What on this machine would."""
        return await self._local.preflight()

    async def close(self) -> None:
        """Watch no more; the addresses stay. A release that is under way may end."""
        if self._taking_back is not None:
            self._taking_back.cancel()
        if self._letting_go:
            await asyncio.wait(self._letting_go, timeout=CLOSE_S)
        await self._local.close()

    def told(self, vip: VipConfig) -> Told:
        """For people: who moves an address, how, why so, and who has it."""
        address = bare(vip.address)
        if address not in self._cloud:
            why = self._clouds.here()[1] if vip.provider == "auto" else "hafarm.yaml says so"
            return Told("onprem", "arp", why, "", "", {})
        choice = self._clouds.chosen(address)
        provider = self._clouds.taken(vip)
        mode, why = (
            (choice.mode, choice.why) if choice else (vip.mode, self._faults.get(address, "not known yet"))
        )
        if vip.provider == "auto":
            why = f"{self._clouds.here()[1]}; {why}"
        seen = self._clouds.sights.get(address, "")
        owner, detail = ("", seen) if isinstance(seen, str) else (_owner(seen, self._clouds.me), seen.detail)
        return Told(provider, mode, why, owner, detail, self._missing.get(address, {}))

    # --- the cloud's part -------------------------------------------------------------------------------

    async def _claim_one(self, address: str, vip: VipConfig, wish: Wish, time_s: float) -> int:
        """How many changes it took. Each attempt looks first, so that a time-out is never taken for a no."""
        loop = asyncio.get_running_loop()
        ends, pause_s, changes = loop.time() + time_s, FIRST_PAUSE_S, 0
        while True:
            is_last = loop.time() + pause_s > ends
            try:
                answer = await self._attempt(address, vip, wish, max(0.1, ends - loop.time()))
                changes += int(answer["changes"])
                if is_last or not answer["again"]:
                    self._learn(address, answer["missing"])
                    if changes and not answer["missing"]:
                        # It was looked at until it was so: nobody need wait for the next look.
                        mine = Sight(Owner.MINE, frozenset({self._clouds.me}), "as this node has just seen")
                        self._clouds.sights[address] = mine
                    return changes
            except (WorkerSaid, ProviderUnreachable) as fault:
                self._faults[address] = str(fault)
                again = not isinstance(fault, WorkerSaid) or fault.again_helps
                if is_last or not again:
                    raise
            if self._clouds.wished(self._module.name) != wish:
                raise Superseded(f"the claim of {address}", "the role was given up meanwhile")
            # Two nodes that were refused together must not come together again.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _attempt(self, address: str, vip: VipConfig, wish: Wish, left_s: float) -> Mapping[str, Any]:
        choice = await self._clouds.choice(vip, address)
        if self._told.get(address) != choice:
            self._told[address] = choice
            how = f"{self._clouds.taken(vip)}, {choice.mode}"
            self._tell("HF7010", f"{address} is moved by {how}: {choice.why}")
        answer = await self._clouds.worker(self._clouds.taken(vip)).ask(
            "claim",
            min(ATTEMPT_S, left_s),
            module=self._module.name,
            verb=wish.verb,
            epoch=wish.epoch,
            address=address,
            expected=sorted(self._expected),
        )
        self._faults.pop(address, None)
        return answer

    def _learn(self, address: str, missing: Mapping[str, str]) -> None:
        before = self._missing.get(address, {})
        if missing:
            self._missing[address] = dict(missing)
            if missing != before:
                parts = "; ".join(f"{part}: {why}" for part, why in missing.items())
                self._tell("HF7011", f"{address} is not led here by {parts}")
        elif before:
            del self._missing[address]
            self._tell("HF7013", f"{address} is led here by everything")

    def _looked(self) -> None:
        """After each look: what is ours and was led elsewhere is led here again."""
        astray = [
            address
            for address in self._cloud
            if isinstance(sight := self._clouds.sights.get(address), Sight) and sight.owner is not Owner.MINE
        ]
        if self._reign == NEVER or not (astray or self._missing):
            return
        if self._taking_back is None or self._taking_back.done():
            self._taking_back = asyncio.create_task(self._take_back())

    async def _take_back(self) -> None:
        held = await self._clouds.held(self._module.name)
        is_ours = self._clouds.wished(self._module.name) == Wish(CLAIM, self._reign)
        if held is not None and is_ours and held > self._reign:
            # After the agent's start it was not known yet; what is led here must not look older than it is.
            self._reign = held
            self._clouds.wish(self._module.name, Wish(CLAIM, held))
        wish = Wish(CLAIM, self._reign)
        for address, vip in self._cloud.items():
            known = self._missing.get(address)
            try:
                changes = await self._claim_one(address, vip, wish, ATTEMPT_S)
            except Superseded:
                return
            except HafarmError as fault:
                code = fault.told if isinstance(fault, WorkerSaid) else fault.code
                if code != Superseded.code:
                    self._tell(code, str(fault))
                continue
            if changes and not known:
                self._tell("HF7012", f"{address} was led elsewhere; it is led here again")

    async def _let_go(self, epoch: Epoch) -> None:
        for address, vip in self._cloud.items():
            # Best effort: a successor takes it all the same, and what is asked for later is held back.
            with contextlib.suppress(HafarmError):
                await self._clouds.worker(self._clouds.taken(vip)).ask(
                    "release",
                    RELEASE_S,
                    module=self._module.name,
                    verb=RELEASE,
                    epoch=epoch,
                    address=address,
                )

    # --- this machine's part ----------------------------------------------------------------------------

    async def _fit_local(self) -> None:
        """Put here what is to be here, now that it is known how each address is moved."""
        local = [
            vip
            for address, vip in self._cloud.items()
            if (choice := self._clouds.chosen(address)) is not None and choice.local
        ]
        before, former = self._put, self._local
        self._make_local(local)
        if self._put == before:
            self._local = former
            return
        await former.close()
        await self._local.start(held=False)

    def _make_local(self, local: list[VipConfig]) -> None:
        placed = [replace(vip, interface=vip.interface or self._interface) for vip in local]
        self._put = (*self._plain, *placed)
        self._local = OnPrem(self._module.name, self._put, self._on_event)

    async def _look_here(self) -> tuple[str, set[str]]:
        """The interface that has this node's own address, and all addresses that are here."""
        net = Netlink()
        await net.open()
        try:
            links, addresses = await net.links(), await net.addresses()
        finally:
            net.close()
        names = {link.index: link.name for link in links.values()}
        by_address = {str(each.address.ip): names.get(each.index, "") for each in addresses}
        own = [bare(text) for text in self._clouds.own_addresses()]
        return next((by_address[one] for one in own if one in by_address), ""), set(by_address)


def _owner(seen: Sight, me: NodeName) -> str:
    """In one word, or the nodes' names."""
    return me if seen.owner is Owner.MINE else ", ".join(sorted(seen.nodes)) or seen.owner.value
