"""Datagrams from anybody, and beats of a node that has the key and lies: heard, or refused, nothing else."""

from __future__ import annotations

import json
import random

import pytest

from orchestrator.cluster import beat as beats
from orchestrator.cluster.beat import Beat
from orchestrator.model.errors import CorruptState
from orchestrator.pulse.session import HEADER, LIVES_KEPT, MAGIC, VERSION
from tests.pulse.test_session import beat, pair

SEEDS = 3000
FIXED = beats._FIXED.size


def test_no_datagram_of_anybody_ends_in_an_exception_or_is_remembered() -> None:
    a, b = pair()
    honest = [a.seal(beat(number), 1472) for number in range(1, 20)]
    peer = b.peer_boot
    for seed in range(SEEDS):
        dice = random.Random(seed)
        frame = bytearray(dice.choice([*honest, a.hello(bytes(16)), dice.randbytes(dice.randrange(1500))]))
        for _ in range(dice.randrange(1, 4)):
            if frame:
                frame[dice.randrange(len(frame))] = dice.randrange(256)
        if dice.random() < 0.3:
            life = dice.randbytes(16)
            target = dice.choice([bytes(16), b._boot, dice.randbytes(16)])
            head = HEADER.pack(MAGIC, VERSION, dice.randrange(4), life, target, dice.getrandbits(64))
            frame = bytearray(head + dice.randbytes(dice.randrange(64)))
        told, answer = b.open(bytes(frame))
        assert told is None or bytes(frame) in honest
        assert answer is None or bytes(frame) not in honest
    assert b.peer_boot == peer, "a forged life is spoken to"
    assert len(b._ciphers) <= LIVES_KEPT
    assert len(b._windows) <= LIVES_KEPT
    assert b.open(a.seal(beat(100), 1472))[0] == beat(100)


SAYINGS = [
    "[]",
    "[[],{},1]",
    "[7,{}]",
    '[{"a":1},{}]',
    "[[],[]]",
    '[[7],{"a":[]}]',
    '[[],{"a":[Infinity]}]',
    '[[],{"a":[1,"PRIM"]}]',
    '[[],{"a":' + "[" * 300 + "]" * 300 + "}]",
    '[[],{"' + "n" * 64 + '":[1]}]',
    "[" * 1300,
    "\ud800",
    '[[],{"a":[1e999,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}]',
    '[[],{"a":[1,"SECOND","ready",Infinity,null,[],null,null,0,0,0,0,0,0,0]}]',
]


@pytest.mark.parametrize("said", SAYINGS, ids=lambda said: said[:30].encode("unicode_escape").decode())
def test_what_a_node_with_the_key_says_is_a_beat_or_refused(said: str) -> None:
    body = bytes(FIXED) + said.encode("utf-8", "surrogatepass")
    with pytest.raises(CorruptState):
        beats.decode("aa" * 16, body[: beats.BODY_BYTES_MAX])


def test_no_lie_of_a_node_with_the_key_ends_in_an_exception_that_is_not_ours() -> None:
    honest = beats.encode(Beat(boot="aa" * 16, counter=5, request=True, vouched=frozenset({"0a"})))
    values = [None, True, -1, 1e999, 1 << 70, "", "x" * 70, [], {}, [[[]]], {"a": [1]}]
    for seed in range(SEEDS):
        dice = random.Random(seed)
        some = [dice.choice(values) for _ in range(dice.randrange(4))]
        said = json.dumps([dice.choice([some, dice.choice(values)]), {"m": some}, *some[:1]]).encode()
        body = dice.choice([honest[:FIXED] + said, dice.randbytes(FIXED) + said, honest, dice.randbytes(80)])
        try:
            beats.decode("aa" * 16, body)
        except CorruptState:
            pass
