"""The rules of the house find what is planted: a check that cannot fail is a defect."""

from __future__ import annotations

import pytest

from tests.house.rules import LINES_MAX, habit_faults, import_faults, says_its_idea, text_faults


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("mirror", "import time"),
        ("mirror", "from os import path"),
        ("cluster", "def f():\n    import random"),
        ("model", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asyncio"),
        ("node", "import socket, json"),
        ("mirror", "from orchestrator.host import clock"),
        ("mirror", "from orchestrator import host"),
        ("mirror", "from orchestrator.farm.buckets import Buckets"),
        ("model", "from orchestrator.mirror.machine import Mirror"),
        ("cli", "import orchestrator.agent.api"),
        ("agent", "from orchestrator.replicator.main import main"),
        ("host", "from orchestrator.config.load import load"),
        ("replicator", "from . import ops"),
        ("mirror", "import pydantic"),
    ],
)
def test_an_arrow_that_runs_up_or_out_is_found(room: str, source: str) -> None:
    assert list(import_faults(room, source))


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("mirror", "from collections.abc import Mapping\nimport zlib"),
        ("mirror", "from orchestrator.model.names import Epoch\nfrom orchestrator.mirror.gate import Gate"),
        ("node", "from orchestrator.mirror.machine import Mirror"),
        ("host", "import os, socket, asyncio"),
        ("cli", "from orchestrator import node"),
    ],
)
def test_an_arrow_that_runs_down_is_right(room: str, source: str) -> None:
    assert list(import_faults(room, source)) == []


@pytest.mark.parametrize(
    "source",
    [
        "from os import *",
        "yaml.load(text)",
        "pickle.loads(data)",
        "subprocess.run(words, shell=True)",
        "subprocess.run(words, shell=flag)",
        "eval(text)",
        "try:\n    f()\nexcept:\n    pass",
    ],
)
def test_a_bad_habit_is_found(source: str) -> None:
    assert list(habit_faults(source))


def test_good_habits_pass() -> None:
    assert list(habit_faults("yaml.safe_load(text)\nsubprocess.run(words, shell=False)\nself.load()")) == []


def test_long_files_and_registries_are_found() -> None:
    assert list(text_faults("x\n" * (LINES_MAX + 1)))
    assert list(text_faults("pip install --index-url https://files." + "python" + "hosted" + ".org/simple"))
    assert list(text_faults("x\n" * LINES_MAX)) == []


def test_a_file_without_an_idea_is_found() -> None:
    assert not says_its_idea("import os\n")
    assert says_its_idea('"""One idea."""\nimport os\n')
