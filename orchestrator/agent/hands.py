"""One module's hands: its effects become deeds, one after another, in the order given."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from orchestrator.agent.heard import (
    of_a_copy,
    of_a_hung_disk,
    of_a_long_log,
    of_a_slow_peer,
    of_two_histories,
    translated,
)
from orchestrator.agent.journal import Journal
from orchestrator.agent.lines import Refused
from orchestrator.agent.pulse import PulseClient
from orchestrator.agent.replicator import ReplicatorClient
from orchestrator.cluster.register import Register
from orchestrator.host.application import Application
from orchestrator.host.store import JsonFile
from orchestrator.mirror.lineage import LINEAGE, Standing
from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.config import MirrorConfig
from orchestrator.model.errors import (
    CorruptState,
    HafarmError,
    ProcessUnreachable,
    RegisterRefused,
    RegisterUnreachable,
    StoreFailed,
)
from orchestrator.model.names import NEVER, Epoch, NodeName, Nonce, RequestId
from orchestrator.model.record import Outcome, Record
from orchestrator.providers.addresses import Addresses
from orchestrator.providers.provider import AddressConflict, AddressPutBack, ProviderEvent

STORE_TIMEOUT_S = 10.0
"""A disk that takes longer to keep a few hundred bytes is as good as dead."""
STORE_LATER_S = 0.1
"""The application is running by then."""
FORCE_TIMEOUT_S = 3.0
"""A gate that is not closed by then is closed by killing its keeper."""
RELEASE_TIMEOUT_S = 5.0
ALL_THE_SAME = (do.Announce, do.Answer, do.Tell, do.ReleaseAddresses)
"""What is said and let go all the same when a deed before it failed."""
Post = Callable[[ev.Event], None]


class Hands:
    """Carries out what one machine orders, and never decides: what came of it is posted."""

    def __init__(
        self,
        module: MirrorConfig,
        me: NodeName,
        state_dir: str,
        register: Register,
        pulse: PulseClient,
        replicator: ReplicatorClient,
        application: Application,
        provider: Addresses,
        journal: Journal,
        answer: Callable[[RequestId, str, str], None],
        post: Post,
    ) -> None:
        self.module = module
        self.me = me
        self.register = register
        self.pulse = pulse
        self.replicator = replicator
        self.application = application
        self.provider = provider
        self._journal = journal
        self._answer = answer
        self._post = post
        self._file = JsonFile(os.path.join(state_dir, "modules", f"{module.name}.json"))
        self._lineage = JsonFile(os.path.join(state_dir, "volumes", module.name, LINEAGE))
        """The replicator's, who writes it."""
        self._state: Mapping[str, Any] = {}
        self._writing = threading.Lock()
        self._doubted = False
        """The last write of that file failed."""
        self._sound = False
        """It was written while the bid was out that is under way now."""
        self._queue: asyncio.Queue[tuple[do.Effect, ...]] = asyncio.Queue()
        self._leasing = asyncio.Lock()
        """Held while the pulse is told of a lease."""
        self._reign = NEVER
        """Under which the addresses were claimed last."""
        self._covered = False
        """A replicator stands between the application and the files."""
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the queue ----------------------------------------------------------------------------------------

    def submit(self, effects: tuple[do.Effect, ...]) -> None:
        """Queue one decision's effects. A gate that must close at once does not wait for its turn."""
        for effect in effects:
            if isinstance(effect, do.CloseGate) and not effect.drain:
                self._start(self._close_at_once())
        self._queue.put_nowait(effects)

    async def work(self) -> None:
        """Until cancelled: one decision after the other."""
        while True:
            effects = await self._queue.get()
            later = self._is_in_the_lineage(effects)
            failed = False
            for effect in effects:
                if failed and not isinstance(effect, ALL_THE_SAME):
                    continue
                try:
                    if later and isinstance(effect, do.StoreModule):
                        self._state = {"epoch": effect.epoch, "wanted": effect.wanted}
                        self._start(self._store_later())
                    else:
                        await self._carry_out(effect)
                except (HafarmError, OSError, TimeoutError) as fault:
                    failed = True
                    why = str(fault) or type(fault).__name__
                    self._post(ev.EffectFailed(self.module.name, type(effect).__name__, why))

    def _is_in_the_lineage(self, effects: tuple[do.Effect, ...]) -> bool:
        """A reign begins under this epoch: its lineage is durable before the gate opens, and `load` reads it.

        A flush less for the application to wait for; two at a time on one disk follow each other. Not where
        the module's own file could not be written when the role was bid for: such a node takes none.
        """
        reigns = {effect.record.epoch for effect in effects if isinstance(effect, do.TakeReign)}
        if not reigns or not self._sound or self._doubted:
            return False
        self._sound = False
        return any(
            effect.epoch in reigns and effect.wanted == self._state.get("wanted")
            for effect in effects
            if isinstance(effect, do.StoreModule)
        )

    async def _let_know(self, what: str) -> None:
        """Ask the replicator for what nobody waits for."""
        with contextlib.suppress(ProcessUnreachable, Refused):
            await self.replicator.ask(what)

    def _start(self, deed: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(deed)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, effect: do.Effect) -> None:
        """The one place where an effect becomes a deed."""
        match effect:
            case do.StoreModule(_, epoch, wanted):
                await self._store(epoch, wanted)
            case do.ReadRegister():
                self._start(self._read())
            case do.Bid(_, expected, record):
                if record.primary == self.me:
                    self._start(self._let_know("expect_reign"))
                    self._start(self._try_file())
                self._start(self._bid(expected, record))
                if record.primary == self.me:
                    self._start(self.application.prepare(record.epoch))
            case do.Announce():
                self._start(self._announce(effect))
                await asyncio.sleep(0)  # it is on its way before anything else is told to the pulse
            case do.Lease(module, epoch, members):
                async with self._leasing:
                    await self.pulse.lease(module, epoch, members, self._addresses())
            case do.Mute(module):
                await self.pulse.mute(module)
            case do.Unmute(module):
                await self.pulse.unmute(module)
            case do.ClaimAddresses(_, epoch):
                self._start(self._claim(epoch))
            case do.ReleaseAddresses():
                await self._release()
            case do.StartApplication(_, epoch):
                self._start(self._start_application(epoch))
                await asyncio.sleep(0)  # it gets under way before anything is told
            case do.StopApplication(_, force):
                await self._stop_application(force)
            case do.Answer(request, code, text):
                self._answer(request, code, text)
            case do.Tell(module, code, text):
                self._journal.tell(module, code, text)
            case _:
                await self._ask_replicator(effect)

    async def _ask_replicator(self, effect: do.Effect) -> None:
        ask = self.replicator.ask
        match effect:
            case do.StartReplicator():
                self._start(self.replicator.launch())
            case do.StopReplicator():
                self._start(self._stop_replicator())
            case do.WidenRequired(_, members):
                await ask("widen_required", members=sorted(members))
            case do.TakeReign(_, record):
                self._start(self._take_reign(record))
                await asyncio.sleep(0)  # it gets under way before the addresses are claimed
            case do.CloseGate(_, drain):
                await (ask("close_gate", drain=True) if drain else self._close_at_once())
            case do.Follow(_, record):
                self._check_stored(record)
                await ask("follow", record=record.as_dict())
            case do.AdmitReign(_, record):
                self._check_stored(record)
                await ask("admit_reign", record=record.as_dict())
            case do.AdoptCopy():
                await ask("adopt_copy")
            case do.CompareInFull():
                await ask("compare_in_full")
            case other:
                raise AssertionError(f"no hand for {other}")

    # --- disk and register --------------------------------------------------------------------------------

    def load(self) -> tuple[int, bool] | None:
        """Epoch and wish as this node's disk has them; None: nothing yet. Raises CorruptState."""
        content = self._file.read()
        if content is None:
            return None
        epoch, wanted = content.get("epoch"), content.get("wanted")
        if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0 or not isinstance(wanted, bool):
            raise CorruptState("the module's state", "epoch and wanted are not there", self._file.path)
        with contextlib.suppress(CorruptState):  # the replicator refuses to serve with it, and says why
            lineage = self._lineage.read()
            epoch = max(epoch, NEVER if lineage is None else Standing.from_dict(lineage).epoch)
        self._state = {"epoch": epoch, "wanted": wanted}
        return epoch, wanted

    async def _try_file(self) -> None:
        """Write what the file has: whether it can be written is known before the bid is answered."""
        self._sound = False
        with contextlib.suppress(StoreFailed, TimeoutError):
            if self._state:
                await asyncio.to_thread(self._write_state)
                self._sound = not self._doubted

    async def _store_later(self) -> None:
        await asyncio.sleep(STORE_LATER_S)
        try:
            await self._store_state()
        except StoreFailed as fault:
            self._post(ev.EffectFailed(self.module.name, "StoreModule", str(fault)))

    def _check_stored(self, record: Record) -> None:
        """R4, also for what was decided before it was known that an earlier decision's epoch was not kept."""
        if self._doubted:
            raise StoreFailed(self._file.path, f"epoch {record.epoch} may not be on the disk")

    async def _store(self, epoch: int, wanted: bool) -> None:
        self._state = {"epoch": epoch, "wanted": wanted}
        await self._store_state()

    async def _store_state(self) -> None:
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                await asyncio.to_thread(self._write_state)
        except (StoreFailed, TimeoutError) as fault:
            self._doubted = True
            if isinstance(fault, StoreFailed):
                raise
            why = f"no answer from the disk within {STORE_TIMEOUT_S:g} s"
            raise StoreFailed(self._file.path, why) from fault
        if self._doubted:
            self._doubted = False
            self._post(ev.ModuleStored(self.module.name))

    def _write_state(self) -> None:
        """The newest, whoever of those that wait for a slow disk comes first: an epoch never falls."""
        with self._writing:
            self._file.write(self._state)

    async def _read(self) -> None:
        try:
            record = await self.register.read(self.module.name)
        except RegisterUnreachable:
            self._post(ev.RegisterSilent(self.module.name))
        except RegisterRefused as fault:
            self._journal.tell(self.module.name, fault.code, str(fault))
            self._post(ev.RegisterSilent(self.module.name))
        else:
            self._post(ev.RegisterAnswered(self.module.name, record))

    async def _bid(self, expected: Record | None, record: Record) -> None:
        try:
            result = await self.register.swap(expected, record)
        except RegisterRefused as fault:
            self._journal.tell(self.module.name, fault.code, str(fault))
            self.application.dismiss()
            self._post(ev.BidAnswered(self.module.name, record, Outcome.LOST))
        else:
            if result.outcome is not Outcome.WON:
                self.application.dismiss()
            self._post(ev.BidAnswered(self.module.name, record, result.outcome, result.current))

    # --- the gate -----------------------------------------------------------------------------------------

    async def _close_at_once(self) -> None:
        """Nothing is acknowledged after this, whatever state the replicator is in."""
        try:
            await self.replicator.ask("close_gate", FORCE_TIMEOUT_S, drain=False)
        except (ProcessUnreachable, Refused):
            await self.replicator.kill()

    async def _take_reign(self, record: Record) -> None:
        try:
            await self.replicator.ask("take_reign", record=record.as_dict())
        except Refused as fault:
            self._post(ev.VolumeFailed(self.module.name, str(fault)))
        except ProcessUnreachable:
            pass  # its keeper starts it again, and then the machine orders it once more

    async def _stop_replicator(self) -> None:
        await self.replicator.stop()
        self._post(ev.ReplicatorStopped(self.module.name))

    def replicator_said(self, message: Mapping[str, Any]) -> None:
        """An event of the replicator, in the machine's words."""
        if message.get("event") == "copy_begins":
            self._journal.tell(self.module.name, "HF4006", of_a_copy(message))
            if message.get("set_aside"):
                self._journal.tell(self.module.name, "HF4016", of_two_histories(message))
        elif message.get("event") == "log_folded":
            self._journal.tell(self.module.name, "HF4046", of_a_long_log(message))
        elif message.get("event") == "peer_slow":
            self._journal.tell(self.module.name, "HF4023", f"{message['peer']} is {of_a_slow_peer(message)}")
        elif message.get("event") == "peer_fast_again":
            self._journal.tell(self.module.name, "HF4024", f"{message['peer']} is fast again")
        elif message.get("event") == "disk_hangs":
            self._journal.tell(self.module.name, "HF4040", of_a_hung_disk(message))
        elif message.get("event") == "disk_answers":
            self._journal.tell(self.module.name, "HF4041", "the disk of this node answers again")
        event = translated(self.module.name, message)
        if event is not None:
            self._post(event)

    def replicator_up(self, status: Mapping[str, Any]) -> None:
        """The replicator is reached, for the first time or again."""
        self._covered = True
        self._start(self._tell_up(status))

    def replicator_lost(self, why: str) -> None:
        """Its life is over. Its dead mount goes once nothing is left that could write to what it covers."""
        self._covered = False
        self._post(ev.ReplicatorLost(self.module.name, why))
        self._start(self._uncover())

    async def _uncover(self) -> None:
        try:
            await self.application.stop(force=True)
        except (HafarmError, OSError) as fault:
            self._journal.tell(self.module.name, "HF1113", f"the application cannot be stopped: {fault}")
            return
        await self.replicator.uncover()

    async def _tell_up(self, status: Mapping[str, Any], application: bool | None = None) -> None:
        record = Record.from_dict(status["record"]) if status.get("record") else None
        is_open = bool(status.get("open"))
        mine = record is not None and record.primary == self.me
        held = is_open and await self._has_addresses()
        running = self.application.running if application is None else application
        self._post(
            ev.ReplicatorUp(
                self.module.name,
                Nonce(str(status["life"])),
                record=record if mine else None,
                required=frozenset(NodeName(name) for name in status.get("required", ())),
                open=is_open and mine,
                following=None if mine else record,
                application=running,
                addresses=held,
            )
        )
        if status.get("failed"):
            self._post(ev.VolumeFailed(self.module.name, str(status["failed"])))
        if status.get("edited"):
            self._tell_of_edits(status["edited"])
        self._post(ev.SetAside(self.module.name, len(status.get("aside", ()))))
        for peer, known in status.get("peers", {}).items():
            if known.get("up"):
                self._post(ev.StreamUp(self.module.name, NodeName(peer)))
            if known.get("ready"):
                self._post(ev.MemberReady(self.module.name, NodeName(peer), Nonce(str(known["ready"]))))

    def _tell_of_edits(self, found: Mapping[str, Any]) -> None:
        """Once: what the replicator does not know to be written down it says again."""
        names = ", ".join(found["names"]) + (", ..." if found["count"] > len(found["names"]) else "")
        if found["unknown"]:
            text = "nothing is known of what happened to these files since: the next resync compares all"
        else:
            count = found["count"]
            text = f"{count} name{'s' * (count != 1)} changed behind hafarm's back: {names}"
        self._journal.tell(self.module.name, "HF4020", f"{text} (hafarm divergence show {found['id']})")
        self._start(self._let_know("edits_told"))

    # --- taking back ----------------------------------------------------------------------------------------

    async def take_back(self) -> None:
        """After a start of the agent: find what runs, touch nothing that is right."""
        status = await self.replicator.adopt()
        is_open = bool(status and status.get("open"))
        running = await self.application.adopt()
        if running and not is_open:
            await self.application.stop(force=True)
            running = False
        if status is None:
            await self.replicator.uncover()  # nothing of the application is left that could write to it
        self._covered = status is not None
        if not is_open:
            # No gate stands behind what a former agent left: it ends before anything new is decided.
            await self.pulse.end_lease(self.module.name)
        await self.provider.start(held=is_open)
        if status is not None:
            await self._tell_up(status, running)

    async def _has_addresses(self) -> bool:
        with contextlib.suppress(HafarmError, OSError):
            return await self.provider.is_here()
        return False

    # --- addresses and application --------------------------------------------------------------------------

    async def _announce(self, told: do.Announce) -> None:
        """Nobody here waits for what the others are told."""
        try:
            await self.pulse.announce(told.module, told.state)
        except (HafarmError, OSError, TimeoutError) as fault:
            self._post(ev.EffectFailed(self.module.name, "Announce", str(fault) or type(fault).__name__))

    def _addresses(self) -> list[str]:
        return [vip.address for vip in self.module.vip]

    async def _claim(self, epoch: Epoch) -> None:
        self._reign = epoch
        try:
            await self.provider.claim(frozenset(self.module.nodes) - {self.me}, epoch)
        except (HafarmError, OSError) as fault:
            self._post(ev.AddressesRefused(self.module.name, str(fault)))
            return
        self._post(ev.AddressesClaimed(self.module.name))
        async with self._leasing:  # before it nobody here answers for them
            pass
        await self.provider.announce()

    async def _release(self) -> None:
        # A pulse that does not answer is ended as a hung one, and the next one is told of no lease.
        with contextlib.suppress(ProcessUnreachable, TimeoutError):
            await self.pulse.end_lease(self.module.name)
        async with asyncio.timeout(RELEASE_TIMEOUT_S):
            await self.provider.release(self._reign)

    def provider_said(self, event: ProviderEvent) -> None:
        """A link's fate is the machine's; the rest is for people."""
        match event:
            case ev.LinkLost() | ev.LinkRestored():
                self._post(event)
            case AddressConflict():
                self._journal.tell(self.module.name, "HF3003", str(event))
            case AddressPutBack():
                self._journal.tell(self.module.name, "HF3004", str(event))

    async def _start_application(self, epoch: Any) -> None:
        if not self._covered:
            return  # ordered before the machine learned that the replicator is gone: it ends the role next
        try:
            await self.application.start(epoch)
        except (HafarmError, OSError) as fault:
            self._post(ev.ApplicationFailed(self.module.name, str(fault)))

    async def _stop_application(self, force: bool) -> None:
        if force:
            await self.application.stop(force=True)
        else:
            self._start(self._stop_gently())

    async def _stop_gently(self) -> None:
        try:
            await self.application.stop(force=False)
        except (HafarmError, OSError) as fault:
            self._journal.tell(self.module.name, "HF1113", f"the application cannot be stopped: {fault}")

    async def close(self) -> None:
        """The agent ends, everything else goes on."""
        self.application.detach()
        await self.provider.close()
        await self.replicator.close()
