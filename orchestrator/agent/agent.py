"""One node's agent: everything is joined here, and nothing is decided."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from aiohttp import web

from orchestrator.agent import api, farm_status, status
from orchestrator.agent.care import Care
from orchestrator.agent.control import Neighbours
from orchestrator.agent.farm_flows import Flow, Flows, TheirFlows
from orchestrator.agent.farm_hands import FarmHands
from orchestrator.agent.hands import Hands
from orchestrator.agent.health import health, listeners
from orchestrator.agent.journal import Journal
from orchestrator.agent.lines import Refused
from orchestrator.agent.loop import Loop
from orchestrator.agent.operations import Operation, Operations
from orchestrator.agent.owners import Owners
from orchestrator.agent.platform import Platform
from orchestrator.agent.pulse import PulseClient
from orchestrator.agent.replicator import ReplicatorClient
from orchestrator.agent.settings import AgentSettings
from orchestrator.agent.strangers import LOOK_S, Strangers
from orchestrator.cluster.orders import AnyStates, States, Step, Wish, order_as_dict
from orchestrator.host.application import Application
from orchestrator.host.presence import show
from orchestrator.host.process import LAUNCHER
from orchestrator.host.realtime import keep_what_is_there
from orchestrator.host.tls import server_context
from orchestrator.model.config import ClusterConfig, FarmConfig, MirrorConfig
from orchestrator.model.errors import CorruptState, HafarmError
from orchestrator.model.events import ModuleLoaded, OperatorAsked
from orchestrator.model.names import NEVER, Epoch, ModuleName, NodeName, RequestId
from orchestrator.model.orders import Order, Start
from orchestrator.model.report import Role
from orchestrator.model.timings import derive
from orchestrator.node import Node
from orchestrator.providers.addresses import Addresses
from orchestrator.providers.clouds import Standing
from orchestrator.providers.registers.choose import choose

LOCK_TIMEOUT_S = 5.0
"""An agent that was killed lets go of its lock at once; longer means that two agents run."""
ANSWER_TIMEOUT_S = 15.0
"""An order is answered at once, or after one read of the register; longer means that its disk hangs."""
VERIFY_TIMEOUT_S = 24 * 3600.0
"""Whoever waits for a comparison on another node sees its end, or his own patience's; a day reads 20 TB."""


@dataclass(eq=False)
class AgentRuns(HafarmError):
    """One node, one agent."""

    code: ClassVar[str] = "HF1005"
    where: str

    def __str__(self) -> str:
        return f"another agent runs on this node, with {self.where}; end one of them"


class Agent:
    """Crash-only: whatever it holds is found again by the next one."""

    def __init__(self, settings: AgentSettings, config: ClusterConfig) -> None:
        self.me = NodeName(settings.node)
        self.config = config
        self.settings = settings
        for folder in (settings.run_dir, settings.log_dir, os.path.join(settings.state_dir, "modules")):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        self._lock = os.open(
            os.path.join(settings.run_dir, "agent.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        self._presence: socket.socket | None = None
        self._strangers = Strangers()
        self.timings_now = derive(config.timing)
        self.journal = Journal(os.path.join(settings.state_dir, "events.jsonl"), self.me)
        self.register = choose(
            config.witness,
            config.name,
            self.me,
            settings.bundle,
            self.timings_now.register_timeout_s,
            os.path.join(settings.log_dir, "register.log"),
        )
        self.loop = Loop(Node.create(self.me, config, self.timings_now), self._stepped)
        self.pulse = PulseClient(
            config, self.me, settings.run_dir, settings.log_dir, settings.bundle, self.loop.post
        )
        self.neighbours = Neighbours(config, settings.bundle)
        self.platform = Platform(
            config, settings, self._standing, lambda: self.loop.node, self._begin, self.journal
        )
        self.fencing = self.platform.fencing
        self.modules = {module.name: module for module in config.mirrors if self.me in module.nodes}
        self.hands = {name: self._make_hands(module) for name, module in self.modules.items()}
        self.farms = {module.name: module for module in config.farms if self.me in module.nodes}
        self.farm_hands = {name: self._make_farm_hands(module) for name, module in self.farms.items()}
        self.flows = {name: Flows(hands.plane) for name, hands in self.farm_hands.items()}
        self._their_flows = TheirFlows(self._ask_flows)
        self.loop.hands = {**self.hands, **self.farm_hands}
        clients = {name: hands.replicator for name, hands in self.hands.items()}
        self.care = Care(self.me, clients, self.nodes_of, self._mirror_states, self.neighbours)
        self.owners = Owners(self.care, self.journal)
        self.operations = Operations(self._states, self._give, lambda: self._changed)
        self._changed = asyncio.Event()
        self._answers: dict[RequestId, asyncio.Future[tuple[str, str]]] = {}
        self._roles: dict[ModuleName, str] = {}
        self._runners: list[web.AppRunner] = []
        self._leaving = False

    def _make_hands(self, module: MirrorConfig) -> Hands:
        settings = self.settings
        places = {
            "state_dir": settings.state_dir,
            "run_dir": settings.run_dir,
            "log_dir": settings.log_dir,
            "bundle": settings.bundle,
        }
        hands: Hands
        replicator = ReplicatorClient(
            self.config,
            module,
            self.me,
            places,
            on_event=lambda message: self._replicator_said(hands, message),
            on_up=lambda status: hands.replicator_up(status),
            on_lost=lambda why: hands.replicator_lost(why),
        )
        hands = Hands(
            module,
            self.me,
            settings.state_dir,
            self.register,
            self.pulse,
            replicator,
            Application(module, self.me, settings.run_dir, settings.log_dir, self.loop.post),
            Addresses(
                module,
                self.platform.clouds,
                lambda event: hands.provider_said(event),
                lambda code, text: self.journal.tell(module.name, code, text),
            ),
            self.journal,
            self._answered,
            self.loop.post,
        )
        return hands

    def _replicator_said(self, hands: Hands, message: Mapping[str, Any]) -> None:
        hands.replicator_said(message)
        self.owners.heard(hands.module.name, message)

    def _make_farm_hands(self, module: FarmConfig) -> FarmHands:
        settings = self.settings
        return FarmHands(
            self.config,
            module,
            self.me,
            settings.state_dir,
            settings.run_dir,
            settings.bundle,
            self.pulse,
            self.neighbours,
            Application(module, self.me, settings.run_dir, settings.log_dir, self.loop.post),
            self.journal,
            self._answered,
            self.loop.post,
        )

    # --- life -----------------------------------------------------------------------------------------------

    async def run(self, over: asyncio.Event) -> None:
        """Take back what runs and serve until `over` is set; then let go of everything."""
        await self._be_the_only_one()
        work: list[asyncio.Task[None]] = []
        proving: asyncio.Task[None] | None = None
        try:
            LAUNCHER.start()
            await self.pulse.start()
            for name, hands in self.hands.items():
                self._load(name, hands)
                await hands.take_back()
            # Only now: what is ordered must find what runs taken back, and not take it for nothing.
            for name, farm_hands in self.farm_hands.items():
                await self._load_farm(name, farm_hands)
            work += [asyncio.create_task(hands.work()) for hands in self.hands.values()]
            work += [asyncio.create_task(hands.work()) for hands in self.farm_hands.values()]
            work += [asyncio.create_task(flows.run()) for flows in self.flows.values()]
            work.append(asyncio.create_task(self.loop.run()))
            work.append(asyncio.create_task(self._look_around()))
            proving = asyncio.create_task(self._prove_register())
            self.platform.start()
            await self._serve()
            keep_what_is_there()
            ending = asyncio.create_task(over.wait())
            done, _ = await asyncio.wait([ending, *work], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a loop that ended by a fault ends the agent: the next one takes over
        finally:
            for task in (*work, *([proving] if proving is not None else [])):
                task.cancel()
            await self._close()

    async def _be_the_only_one(self) -> None:
        """Two agents would take each other's processes for left-overs. The kernel frees a dead one's lock."""
        deadline = asyncio.get_running_loop().time() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._presence = show(self.settings.run_dir)
                return
            except OSError as fault:
                # A dead one's files are closed one after another: its sign may outlive its lock a moment.
                if fault.errno not in (errno.EWOULDBLOCK, errno.EADDRINUSE):
                    raise
                if asyncio.get_running_loop().time() > deadline:
                    raise AgentRuns(self.settings.run_dir) from None
                await asyncio.sleep(0.1)

    async def _look_around(self) -> None:
        """What must be asked for is asked for together, so that an idle agent sleeps between."""
        async with asyncio.TaskGroup() as looks:
            while True:
                await asyncio.sleep(LOOK_S)
                for name, hands in self.hands.items():
                    # Nobody waits for one that hangs before the others are looked at again.
                    looks.create_task(hands.replicator.look())
                    looks.create_task(self.care.tell_slow(name))
                for code, text in self._strangers.look(await self._pulse_status()):
                    self.journal.tell("", code, text)

    async def _prove_register(self) -> None:
        """In time: a bid would have to wait for it."""
        if self.modules:
            await self.register.keep_proving(lambda code, text: self.journal.tell("", code, text))

    def _load(self, name: ModuleName, hands: Hands) -> None:
        try:
            known = hands.load()
        except CorruptState as fault:
            self.journal.tell(name, fault.code, str(fault))
            return
        epoch, wanted = known if known is not None else (NEVER, False)
        self.loop.step(ModuleLoaded(name, Epoch(epoch), wanted))

    async def _load_farm(self, name: ModuleName, hands: FarmHands) -> None:
        running = await hands.take_back()
        try:
            known = hands.load()
        except CorruptState as fault:
            self.journal.tell(name, fault.code, str(fault))
            return
        self.loop.step(replace(known, running=running))

    async def _serve(self) -> None:
        local = web.AppRunner(api.local(self), access_log=None, shutdown_timeout=0.5)
        await local.setup()
        path = os.path.join(self.settings.run_dir, "agent.sock")
        mask = os.umask(0o177)
        try:
            await web.UnixSite(local, path).start()
        finally:
            os.umask(mask)
        self._runners.append(local)
        distant = web.AppRunner(
            api.neighbourly(self, self.config.name), access_log=None, shutdown_timeout=0.5
        )
        await distant.setup()
        self._runners.append(distant)
        context = server_context(self.settings.bundle)
        for address in self.config.node(self.me).addresses.values():
            site = web.TCPSite(
                distant, address, self.config.control_port, ssl_context=context, reuse_address=True
            )
            await site.start()
        await self._serve_health()

    async def _serve_health(self) -> None:
        """Where load balancers ask; only where hafarm.yaml names a port for it."""
        if not self.config.health_port:
            return
        runner = web.AppRunner(
            health(lambda: self.loop.node, lambda: self._leaving), access_log=None, shutdown_timeout=0.5
        )
        await runner.setup()
        self._runners.append(runner)
        for listener in listeners(self.config, self.me):
            await web.SockSite(runner, listener).start()

    async def _close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        await self.operations.close()
        await self.owners.close()
        for hands in self.hands.values():
            await hands.close()
        for farm_hands in self.farm_hands.values():
            await farm_hands.close()
        await self.platform.close()
        await self.pulse.close()
        self._their_flows.close()
        await self.neighbours.close()
        await self.register.close()
        LAUNCHER.close()
        await asyncio.to_thread(self.journal.close)
        if self._presence is not None:
            self._presence.close()

    async def leave(self) -> None:
        """Stop every module here by plan, then say goodbye: an orderly end of the node."""
        self._leaving = True
        for name in (*self.modules, *self.farms):
            from orchestrator.model.orders import Leave

            code, text = await self.order_here(name, Leave())
            if code:
                self.journal.tell(name, code, f"the node's orderly end goes on without it: {text}")
                continue
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S * 4):
                    while self._role(name) != Role.STOP.value:
                        await self._changed.wait()
            except TimeoutError:
                self.journal.tell(name, "HF1230", "not stopped within its time")
        await self.pulse.goodbye()

    def _stepped(self) -> None:
        """After each step: whoever waits for a state looks again; changes of role go to the log."""
        self._changed.set()
        self._changed = asyncio.Event()
        self.platform.stepped()
        for name in self.loop.hands:
            before, now = self._roles.get(name, Role.STOP.value), self._role(name)
            if before != now:
                self._roles[name] = now
                mirror = self.loop.node.mirrors.get(name)
                under = f", epoch {mirror.epoch}" if mirror is not None else ""
                self.journal.tell(name, "HF1100", f"{before} to {now}{under}")

    async def _standing(self, name: ModuleName) -> Standing:
        """What the pulse and the machine know now, the pulse's newest words included."""
        leases = (await self.pulse.status()).get("leases", {})
        await self.loop.settled()
        held = self.loop.node.mirrors[name].held
        return Standing(held.epoch if held is not None else None, float(leases.get(name, 0.0)))

    def _role(self, name: ModuleName) -> str:
        node = self.loop.node
        return str((node.mirrors[name].role if name in node.mirrors else node.farms[name].role).value)

    # --- orders ---------------------------------------------------------------------------------------------

    def nodes_of(self, module: ModuleName) -> tuple[NodeName, ...] | None:
        found = self.modules.get(module) or self.farms.get(module)
        return found.nodes if found else None

    def _states(self, module: ModuleName) -> AnyStates:
        farm = self.loop.node.farms.get(module)
        return farm_status.states(farm) if farm is not None else self._mirror_states(module)

    def _mirror_states(self, module: ModuleName) -> States:
        return status.states(self.loop.node.mirrors[module])

    async def _give(self, module: ModuleName, step: Step) -> tuple[str, str]:
        if step.node == self.me:
            return await self.order_here(module, step.order)
        path = f"/api/v1/modules/{module}/orders"
        answer = await self.neighbours.call(
            step.node, "POST", path, order_as_dict(step.order), ANSWER_TIMEOUT_S + 5
        )
        if "error" in answer:
            return str(answer["error"]["code"]), str(answer["error"]["message"])
        return str(answer["code"]), str(answer["text"])

    def _begin(self, module: ModuleName, wish: Wish) -> Operation:
        return self.operations.begin(module, self.nodes_of(module) or (), wish)

    async def order_here(self, module: ModuleName, order: Order) -> tuple[str, str]:
        """Ask this node's machine; its answer, with an empty code when it accepts."""
        if isinstance(order, Start) and order.first and module in self.hands:
            try:
                await self.hands[module].replicator.check_files()
            except Refused as fault:
                return fault.refusal, str(fault)
        request = RequestId(secrets.token_hex(8))
        self._answers[request] = asyncio.get_running_loop().create_future()
        self.loop.post(OperatorAsked(request, module, order))
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._answers[request]
        except TimeoutError:
            return "HF1233", "this node gave no answer in time: see its events"
        finally:
            self._answers.pop(request, None)

    def _answered(self, request: RequestId, code: str, text: str) -> None:
        waiting = self._answers.get(request)
        if waiting is not None and not waiting.done():
            waiting.set_result((code, text))

    async def verify(self, module: ModuleName, budget_s: float | None) -> Any:
        """Compare both sides, at the primary; with a budget in seconds a part of it."""
        if module not in self.hands:
            raise Refused("HF6029", "a farm has no copies to compare")
        mirror = self.loop.node.mirrors[module]
        for name, state in status.states(mirror).items():
            if state is not None and state.role in status.SERVING:
                if name == self.me:
                    return await self.verify_here(module, budget_s)
                path, body = f"/api/v1/modules/{module}/verify", {"budget_s": budget_s}
                answer = await self.neighbours.call(name, "POST", path, body, VERIFY_TIMEOUT_S)
                if "error" in answer:
                    raise Refused(str(answer["error"]["code"]), f"{name}: {answer['error']['message']}")
                return answer["result"]
        raise Refused("HF1225", "no node serves this module now")

    async def verify_here(self, module: ModuleName, budget_s: float | None) -> Any:
        if budget_s is not None and (not isinstance(budget_s, int | float) or not 0 < budget_s < 1e9):
            raise Refused("HF1223", f"a budget of {budget_s!r:.40} is no number of seconds")
        reports = await self.hands[module].replicator.verify(budget_s)
        differing = {peer: [each["path"] for each in report["differing"]] for peer, report in reports.items()}
        return {"differing": differing, "reports": reports}

    # --- telling --------------------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        modules = [
            status.module_status(mirror, self.modules[name], self.hands[name])
            for name, mirror in self.loop.node.mirrors.items()
        ]
        modules += await self._farms_status()
        told = status.cluster_status(
            self.config, self.me, modules, await self._pulse_status(), self._witness()
        )
        for node in told["nodes"]:
            node["trouble"] = self._strangers.troubles.get(node["name"], "")
        self.platform.tell(told)
        return told

    async def flows_here(self) -> Mapping[str, Flow]:
        """Of each farm what this node serves, for another node's screen."""
        return {name: await flows.here() for name, flows in self.flows.items()}

    async def _ask_flows(self, node: NodeName) -> Any:
        return await self.neighbours.call(node, "GET", "/api/v1/flows", None)

    async def _farms_status(self) -> list[dict[str, Any]]:
        farms = self.loop.node.farms
        serving = {name for farm in farms.values() for name, peer in farm.peers.items() if peer.serves}
        told = await self._their_flows.of(serving) if serving else {}
        return [
            await farm_status.module_status(
                farm,
                self.farms[name],
                self.farm_hands[name],
                self.flows[name],
                {node: flows[name] for node, flows in told.items() if name in flows},
            )
            for name, farm in farms.items()
        ]

    async def _pulse_status(self) -> Any:
        try:
            return await self.pulse.status()
        except (HafarmError, TimeoutError):
            return {}

    def _witness(self) -> dict[str, Any]:
        silent = any(mirror.register.value == "silent" for mirror in self.loop.node.mirrors.values())
        rtt = self.register.rtt_s
        return {
            "kind": self.config.witness.kind,
            "where": self.register.where,
            "ok": None if rtt is None and not silent else not silent,
            "rtt_ms": None if rtt is None else round(rtt * 1000, 2),
            "why": self.register.why,
        }

    async def test_provider(self, name: str, repair: bool) -> list[dict[str, str]]:
        return await self.platform.test(name, repair, self.hands.values())

    async def timings(self) -> dict[str, Any]:
        pulse = await self._pulse_status()
        return {
            "preset": self.config.preset,
            "paths": pulse.get("paths", []),
            "realtime_refused": pulse.get("realtime_refused", []),
            "register_rtt_s": self.register.rtt_s,
            "loop_lag_s": self.loop.lag_s,
        }
