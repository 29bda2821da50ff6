"""The HF codes of registers in somebody else's store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.model.code import USAGE, Code

REGISTERS: Final[Mapping[str, Code]] = {
    "HF7100": Code(
        "the register's store refuses",
        "The store that holds the register understood the request and said no: rights, names, or what is "
        "there. Nothing stops, but no role can change.",
        "Mend what is named beside it; `hafarm witness test` asks again.",
    ),
    "HF7101": Code(
        "no register",
        "The self-test found that the store grants what it must refuse: a write with a stale tag. With it "
        "two nodes could be primary at once, so nothing is asked of it and no role changes.",
        "Use a store that compares (docs/registers.md), and check it with `hafarm witness test`.",
    ),
    "HF7102": Code(
        "the register's library is not installed",
        "A register in a cloud's store is reached through the cloud's own library, which comes with an "
        "extra of this package. Nothing stops, but no role can change.",
        "Install it on every node, such as `pip install 'hafarm[aws]'`; `hafarm witness test` says whether "
        "it is there.",
        USAGE,
    ),
    "HF7103": Code(
        "no register to test",
        "The file has no `witness`, and nothing in it needs one.",
        "Mirrors need one: docs/registers.md says which there are.",
        USAGE,
    ),
}
