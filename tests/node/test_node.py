"""One node, several mirrors: each event reaches whom it concerns, and nobody else."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.model import effects as do
from orchestrator.model import events as ev
from orchestrator.model.config import DirectoryConfig, MirrorConfig
from orchestrator.model.names import NEVER, Instant, ModuleName
from orchestrator.node import Node
from tests.mirror.words import LIFE, A, B, C, config, record

SHOP, MAIL, FAR = ModuleName("shop"), ModuleName("mail"), ModuleName("far")


def node_with(*modules: MirrorConfig) -> Node:
    return Node.create(A, replace(config(A, B), mirrors=modules))


def mirror(name: ModuleName, *nodes) -> MirrorConfig:
    return MirrorConfig(name, nodes, (DirectoryConfig(f"/srv/{name}"),))


def test_a_node_runs_the_modules_that_name_it_and_no_others() -> None:
    assert set(node_with(mirror(SHOP, A, B), mirror(FAR, B, C)).mirrors) == {SHOP}


def test_a_module_s_event_moves_that_module_alone() -> None:
    node = node_with(mirror(SHOP, A, B), mirror(MAIL, A, B))
    after, effects = (
        (decision := node.step(Instant(1), ev.ModuleLoaded(SHOP, NEVER, True))).state,
        decision.effects,
    )
    assert after.mirrors[MAIL] is node.mirrors[MAIL]
    assert {effect.module for effect in effects} == {SHOP}


def test_a_lost_peer_concerns_every_module_that_it_serves() -> None:
    node = node_with(mirror(SHOP, A, B), mirror(MAIL, A, B))
    for name in (SHOP, MAIL):
        old = replace(record(4, B, A, B), module=name)
        for event in (
            ev.ModuleLoaded(name, old.epoch, True),
            ev.ReplicatorUp(name, LIFE[A]),
            ev.RegisterAnswered(name, old),
        ):
            node = node.step(Instant(1), event).state
    decision = node.step(Instant(2), ev.PeerLost(B))
    assert {effect.module for effect in decision.effects if isinstance(effect, do.Bid)} == {SHOP, MAIL}


def test_an_event_of_an_unknown_module_changes_nothing() -> None:
    node = node_with(mirror(SHOP, A, B))
    decision = node.step(Instant(1), ev.ApplicationStarted(FAR))
    assert decision.state is node
    assert decision.effects == ()
