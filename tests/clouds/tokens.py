"""Tokens that a cloud gave: to whom, for what, until when."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Final

LIFETIME_S: Final = 3599
"""As long as the clouds' own tokens for clients."""


@dataclass(frozen=True, slots=True)
class Token:
    who: str
    audience: str
    until: float
    """In the clock of the wall, as the caller is told it."""

    def has_expired(self) -> bool:
        return time.time() >= self.until

    @property
    def left_s(self) -> int:
        return int(self.until - time.time())


@dataclass
class Tokens:
    """By their text."""

    tokens: dict[str, Token] = field(default_factory=dict)
    asked: int = 0
    """How many were given over HTTP."""

    def give(self, who: str, audience: str, lifetime_s: float = LIFETIME_S) -> tuple[str, Token]:
        text = f"token.{uuid.uuid4().hex}"
        self.tokens[text] = Token(who, audience.rstrip("/"), time.time() + lifetime_s)
        return text, self.tokens[text]

    def of(self, authorization: str) -> Token | None:
        """The token of a request's header; None if nobody gave it."""
        kind, _, text = authorization.partition(" ")
        return self.tokens.get(text) if kind.lower() == "bearer" else None

    def expire_all(self) -> None:
        """Every token that was given is too old now; new ones are not."""
        for text, token in self.tokens.items():
            self.tokens[text] = Token(token.who, token.audience, time.time() - 1)
