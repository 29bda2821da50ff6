"""One node's heartbeat life: whom it hears, what it believes, how long it may answer. No clock, no socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from orchestrator.cluster.beat import STATES_BYTES_MAX, VOUCHES_MAX, AgentState, Beat, tag
from orchestrator.cluster.leases import Grant, deadline, overtaken
from orchestrator.cluster.membership import LONG_AGO, Path, PathReport, Peer, Sent, Verdict, Word
from orchestrator.model.events import (
    Event,
    Paused,
    PeerAlive,
    PeerLeft,
    PeerLost,
    PeerSaid,
    PeerSuspected,
)
from orchestrator.model.names import Epoch, Instant, ModuleName, NodeName, PathName
from orchestrator.model.report import AnyState
from orchestrator.model.timings import Timings

PADDED_EVERY: Final = 10
"""Every tenth turn has a large request: a black hole shows within thirty periods, at a tenth of the cost."""
STEP: Final = 1 / 20
"""Of a period, between two nodes' turns: a timer's millisecond and a network's jitter fit in."""
TURNS: Final = ((1 + STEP, 1.0), (1 - STEP, 1 - 2 * STEP))
"""Periods between two turns of a node, by whether it needs echoes and whether its name is the first.

Of two nodes the one with the shorter time asks, and the other answers. It costs a tenth more beats at most.
"""


class Heart:
    """Feed it beats and time; take from it beats, events and leases."""

    def __init__(
        self,
        me: NodeName,
        peers: Mapping[NodeName, tuple[PathName, ...]],
        timings: Timings,
        boot: str,
        now: Instant,
    ) -> None:
        assert me not in peers
        assert timings.suspect_s < timings.lease_s < timings.detection_s
        self._me = me
        self._timings = timings
        self._boot = boot
        self._started = now
        self._peers = {
            name: Peer(name, {path: Path(due=now) for path in paths}) for name, paths in peers.items()
        }
        self._states: dict[ModuleName, tuple[int, AnyState]] = {}
        self._version = 0
        self._muted: set[ModuleName] = set()
        self._grants: dict[ModuleName, Grant] = {}
        self._members: frozenset[NodeName] = frozenset()
        """Those by whose word some address is answered here."""
        self._overtaken: frozenset[ModuleName] | None = None
        """Modules whose grant is void, as another is primary under a higher epoch; None: to be found anew."""
        self._lines = [
            (peer, name, path) for peer in self._peers.values() for name, path in peer.paths.items()
        ]
        self._events: list[Event] = []
        self._outbox: list[tuple[NodeName, PathName, Beat]] = []
        self._due = now
        self._judge_from = now
        self._floor = LONG_AGO
        self._stretch_s = 0.0
        self._stretch_until = now
        self._now = now
        self._seen = now
        """The newest instant that is known of; `_now` is the last at which silence was judged."""
        self._unsettled = False
        self._agent_present = False
        self._agent_left = now
        self._goodbye = False

    # --- what comes in ----------------------------------------------------------------------------------

    def receive(self, now: Instant, peer: NodeName, path: PathName, beat: Beat) -> None:
        """Take in one authenticated beat; `advance` answers a request at once."""
        other = self._peers.get(peer)
        if other is None or path not in other.paths:
            return
        known = other.boot
        if not other.admit(beat.boot):
            return
        if beat.boot != known:
            self._unsettled = True  # what the old life vouched for is void
            self._overtaken = None
        other.paths[path].hear(now, beat.counter)
        # Of a new life nothing is known but what it says: that it has said nothing yet is news.
        if other.learn(beat) or (known and beat.boot != known):
            self._unsettled = True  # another may be primary under a higher epoch
            self._overtaken = None
            states = {name: state for name, (_, state) in other.states.items()}
            self._events.append(PeerSaid(peer, states))
        sent = self._echoed(now, other, path, beat)
        if beat.goodbye:
            self._leave(other)
        else:  # of one that left, this is a new life: the old one is refused above
            self._contact(now, other, beat, sent)
        self._seen = max(self._seen, now)
        if beat.request and not beat.goodbye:
            other.paths[path].owed.append(beat.counter)

    def _echoed(self, now: Instant, other: Peer, path: PathName, beat: Beat) -> Sent | None:
        if beat.echo_boot != self._boot:
            return None
        sent = other.paths[path].echoed(now, beat.echo, beat.prompt)
        if sent is not None:
            other.confirm(sent, beat.vouched)
        return sent

    def _leave(self, other: Peer) -> None:
        if other.verdict is not Verdict.LEFT:
            other.verdict = Verdict.LEFT
            self._events.append(PeerLeft(other.name))
        # A life that said goodbye says nothing more; what is still on the way is old.
        other.retired.setdefault(other.boot, {})

    def _contact(self, now: Instant, other: Peer, beat: Beat, sent: Sent | None) -> None:
        """A peer whose agent is gone counts as silent: nobody there would act."""
        if beat.agent is AgentState.GONE:
            return
        other.heard_at = max(other.heard_at, now)
        if sent is None:
            return
        other.echoed_at = max(other.echoed_at, sent.at)
        fresh = now - other.echoed_at < self._timings.suspect_s
        if fresh and other.verdict is not Verdict.ALIVE:
            if other.verdict is Verdict.LOST:
                # The agent may be about to bid on the verdict that has just become old: vouch again only
                # when it had time to learn of this one, or to mute.
                other.doubted_until = Instant(now + self._timings.suspect_s)
            other.verdict = Verdict.ALIVE
            self._events.append(PeerAlive(other.name))

    # --- time -------------------------------------------------------------------------------------------

    def advance(self, now: Instant) -> None:
        """Notice own lateness, judge silence, emit the beats that are owed or due.

        To be called when beats were taken in, and when `next_deadline` has come.
        """
        assert now >= self._now, "this clock never runs back"
        self._now = now
        self._notice_pause(now)
        ends = [end for peer in self._peers.values() for end in self._judge(now, peer) if end > now]
        self._seen = max(self._seen, now)
        self._unsettled |= self._agent(now) is AgentState.GONE
        self._speak(now)
        self._due = min([*ends, *(self._speaks_at(path) for _, _, path in self._lines)])

    def next_deadline(self) -> Instant:
        """When `advance` is to be called at the latest."""
        return self._due

    def _notice_pause(self, now: Instant) -> None:
        late = now - self._due
        if now >= self._stretch_until:
            self._stretch_s = 0.0
        if late <= min(2 * self._timings.period_s, self._timings.detection_s / 2):
            return
        self._unsettled = True
        # Silence that we slept through proves nothing: count from here, and for one T more patiently.
        self._judge_from = now
        self._floor = now
        self._stretch_s = min(self._stretch_s + late, self._timings.detection_s)
        self._stretch_until = Instant(now + 2 * self._timings.detection_s)
        self._events.append(Paused(late))

    def _verdicts_due(self, peer: Peer) -> tuple[Instant, Instant]:
        """When the peer becomes suspected and lost if it stays silent."""
        times = self._timings
        grace = self._started + times.start_grace_s
        suspect = max(peer.echoed_at, self._judge_from) + times.suspect_s + self._stretch_s
        lost = max(peer.heard_at, self._judge_from) + times.detection_s + self._stretch_s
        if peer.verdict is Verdict.NEW:
            suspect = max(suspect, grace)
            lost = max(lost, grace) if peer.heard_at == LONG_AGO else lost
        return Instant(suspect), Instant(lost)

    def _judge(self, now: Instant, peer: Peer) -> tuple[Instant, ...]:
        """Judge its silence by now; when to judge it again."""
        if peer.verdict in (Verdict.LOST, Verdict.LEFT):
            return ()
        suspect, lost = self._verdicts_due(peer)
        if peer.verdict is not Verdict.SUSPECTED and now >= suspect:
            peer.verdict = Verdict.SUSPECTED
            self._events.append(PeerSuspected(peer.name))
        if now >= lost:
            peer.verdict = Verdict.LOST
            self._events.append(PeerLost(peer.name))
        return suspect, lost

    def agent_present(self, now: Instant, present: bool) -> None:
        """The agent came or went."""
        if self._agent_present and not present:
            self._agent_left = now
        if present and self._agent(now) is AgentState.GONE:
            # The peers took us for silent meanwhile: what they echoed then vouches for nothing.
            self._floor = now
            self._unsettled = True
        self._agent_present = present

    def _agent(self, now: Instant) -> AgentState:
        if self._agent_present:
            return AgentState.PRESENT
        away_s = now - self._agent_left
        return AgentState.AWAY if away_s < self._timings.agent_grace_s else AgentState.GONE

    # --- orders -----------------------------------------------------------------------------------------

    def announce(self, module: ModuleName, state: AnyState) -> None:
        """Say this of the module from now on."""
        if module in self._states and self._states[module][1] == state:
            return
        self._version += 1
        self._states[module] = (self._version, state)
        self._forget_words()

    def lease(self, module: ModuleName, epoch: Epoch, members: frozenset[NodeName]) -> None:
        """Answer the module's addresses while each of these members vouches (none: while we live)."""
        self._grants[module] = Grant(epoch, members - {self._me}, tag(module))
        self._overtaken = None
        before = self._members
        self._note_members()
        for peer, _, path in self._lines:
            if peer.name in self._members - before:
                path.due = self._now  # what was echoed up to now may be a period old: ask in this turn

    def end_lease(self, module: ModuleName) -> None:
        self._grants.pop(module, None)
        self._note_members()

    def _note_members(self) -> None:
        self._members = frozenset(name for grant in self._grants.values() for name in grant.members)

    def mute(self, module: ModuleName) -> None:
        """Vouch for nobody's lease of this module: a bid is about to leave (T4)."""
        self._muted.add(module)
        self._forget_words()

    def unmute(self, module: ModuleName) -> None:
        self._muted.discard(module)
        self._forget_words()

    def _forget_words(self) -> None:
        for peer in self._peers.values():
            peer.word = None

    def goodbye(self) -> None:
        """Stop cleanly: answer no address, tell every peer on every path; no beat after it."""
        self._goodbye = True
        self._grants = {}
        self._unsettled = True
        for peer, name, path in self._lines:
            self._ask(self._now, peer, name, path)

    # --- what goes out ----------------------------------------------------------------------------------

    def beats_to_send(self) -> list[tuple[NodeName, PathName, Beat]]:
        beats, self._outbox = self._outbox, []
        return beats

    def events_received(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def leases_unsettled(self) -> bool:
        """Whether the deadlines are to be asked for now: a lease may have ended, or one that is granted may
        have begun. Otherwise they only grow, and once a period is enough."""
        return self._unsettled

    def lease_deadlines(self) -> Mapping[ModuleName, Instant]:
        """Until when each module's addresses may be answered, on this clock; absent: silent."""
        leases: dict[ModuleName, Instant] = {}
        now = self._seen
        if self._agent(now) is AgentState.GONE or self._goodbye:
            return leases
        if self._overtaken is None:
            self._overtaken = frozenset(
                module
                for module, grant in self._grants.items()
                if overtaken(self._me, module, grant.epoch, self._peers.values())
            )
        for module, grant in self._grants.items():
            end = deadline(grant, self._peers, now, self._floor, self._timings.lease_s)
            if end is not None and module not in self._overtaken:
                leases[module] = end
        self._unsettled = len(leases) < len(self._grants)
        return leases

    def path_reports(self) -> Mapping[tuple[NodeName, PathName], PathReport]:
        return {(peer.name, name): path.report() for peer, name, path in self._lines}

    def verdicts(self) -> Mapping[NodeName, tuple[Verdict, int]]:
        """What is believed of each peer, and how many beats of a replaced life came in its name."""
        return {peer.name: (peer.verdict, peer.strangers) for peer in self._peers.values()}

    def peer_states(self) -> Mapping[NodeName, Mapping[str, AnyState]]:
        return {
            peer.name: {name: state for name, (_, state) in peer.states.items()}
            for peer in self._peers.values()
        }

    def _speak(self, now: Instant) -> None:
        """Answer each request at once; have a turn once a period, which is an answer where one is enough."""
        is_due = any(self._speaks_at(path) <= now for _, _, path in self._lines)
        for peer in self._peers.values():
            is_large = (peer.turns + 1) % PADDED_EVERY == 0
            turned = [
                self._speak_to(now, is_due, is_large, peer, name, path)
                for name, path in peer.paths.items()
                if is_due or path.owed
            ]
            peer.turns += any(turned)

    def _speak_to(
        self, now: Instant, is_due: bool, is_large: bool, peer: Peer, name: PathName, path: Path
    ) -> bool:
        """True where it was this node's turn."""
        owed, path.owed = path.owed, []
        # Half a period: an answer to a request that answered one follows too soon to be one as well.
        may_turn = now - path.turned_at >= self._timings.period_s / 2 and not self._goodbye
        # Who asks first asks on all paths together: one turn for all, here and there.
        asks = (self._speaks_at(path) <= now and not self._goodbye) or (
            may_turn and is_due and (path.leads or self._is_first(peer))
        )
        turns = asks or (may_turn and bool(owed))
        if turns or owed:
            path.leads = not owed
        if turns:
            # Also who needs no echo asks at times, to see large beats pass and to know the round trip.
            asks = asks or is_large or self._needs_echoes(peer)
            self._turn(now, peer, path)
        # A large beat may vanish where a small one would not: it is no answer.
        echo = owed.pop() if asks and owed and not is_large else 0
        for counter in owed:
            self._send(now, peer, name, request=False, echo=counter)
        if asks:
            self._ask(now, peer, name, path, echo, is_large)
        return turns

    def _needs_echoes(self, peer: Peer) -> bool:
        """Whether anything here depends on what the peer echoes: a lease, or that it is found again.

        Who needs none has its turn in answering: its answer comes back with the peer's next request.
        """
        return peer.name in self._members or peer.verdict is not Verdict.ALIVE

    def _turn(self, now: Instant, peer: Peer, path: Path) -> None:
        path.turned_at = now
        wait = TURNS[self._needs_echoes(peer)][self._is_first(peer)]
        path.due = Instant(now + wait * self._timings.period_s)

    def _ask(
        self, now: Instant, peer: Peer, name: PathName, path: Path, echo: int = 0, padded: bool = False
    ) -> None:
        path.asked_at = now
        self._send(now, peer, name, request=True, echo=echo, padded=padded)

    def _speaks_at(self, path: Path) -> Instant:
        """When the next request leaves at the latest: with the next turn, or sooner in place of a lost one.

        Each node is echoed once a period, so that with one datagram all of that period's chances are gone.
        """
        was_heard = path.echoed_at >= path.asked_at
        is_broken = path.asked_at - path.echoed_at >= self._timings.suspect_s
        if was_heard or is_broken:
            return path.due
        # Twice the way: an echo that is only slow is waited for.
        patience_s = max(self._timings.period_s / 2, 2 * (path.rtt_s or 0.0))
        return Instant(min(path.due, path.asked_at + patience_s))

    def _is_first(self, peer: Peer) -> bool:
        return self._me < peer.name

    def _send(
        self,
        now: Instant,
        peer: Peer,
        path_name: PathName,
        request: bool,
        echo: int,
        padded: bool = False,
    ) -> None:
        path = peer.paths[path_name]
        path.counter += 1
        states, told, vouched = peer.word = peer.word or self._word_to(peer)
        if self._goodbye or peer.verdict is Verdict.LOST or now < peer.doubted_until:
            vouched = frozenset()
        beat = Beat(
            boot=self._boot,
            counter=path.counter,
            request=request,
            prompt=bool(echo),
            echo_boot=peer.boot,
            echo=echo or path.heard_counter,
            agent=self._agent(now),
            goodbye=self._goodbye,
            padded=padded,
            vouched=vouched,
            states=states,
        )
        path.remember(Sent(now, request, beat.padded, told))
        self._outbox.append((peer.name, path_name, beat))

    def _word_to(self, peer: Peer) -> Word:
        states = self._states_for(peer)
        told = tuple((name, version) for name, (version, _) in states.items())
        return Word(states, told, self._vouched_to(peer, states))

    def _states_for(self, peer: Peer) -> dict[str, tuple[int, AnyState]]:
        """What the peer is not known to have, oldest first, as far as one datagram carries."""
        room = STATES_BYTES_MAX
        chosen: dict[str, tuple[int, AnyState]] = {}
        untold = [each for each in self._states.items() if peer.told.get(each[0], 0) < each[1][0]]
        for name, told in sorted(untold, key=lambda each: each[1][0]):
            room -= len(name) + len(json.dumps(told[1].as_list()))
            if room < 0 and chosen:
                break
            chosen[name] = told
        return chosen

    def _vouched_to(self, peer: Peer, told: Mapping[str, object]) -> frozenset[str]:
        """The modules for which the peer may count this echo: only those whose state it has, or gets here."""
        known = [
            name
            for name, (version, _) in self._states.items()
            if name not in self._muted and (name in told or peer.told.get(name, 0) >= version)
        ]
        return frozenset(tag(name) for name in known[:VOUCHES_MAX])
