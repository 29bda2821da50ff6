"""Between a real SDK and a simulated cloud: slow, throttled, failing, forgetful, as a test orders.

A WSGI application around another. What differs from cloud to cloud, how a request is read and how a
refusal is written, is the `Dialect`'s; another cloud gets its own.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Answer = tuple[str, list[tuple[str, str]], bytes]
Application = Callable[..., Iterable[bytes]]


@dataclass(frozen=True)
class Request:
    """One request, as a test speaks of it."""

    who: str
    """The credentials' name."""
    service: str
    action: str
    words: Mapping[str, str]
    changes: bool

    def is_about(self, action: str, about: str, who: str) -> bool:
        return (
            (action in ("*", self.action) or (action == "changes" and self.changes))
            and (not about or about in self.words.values())
            and who in ("", self.who)
        )


class Dialect(Protocol):
    """One cloud's form."""

    def read(self, environ: Mapping[str, Any], body: bytes) -> Request | None: ...
    def refuse(self, request: Request, kind: str) -> Answer:
        """`kind`: throttled, broken, denied, expired, trial (a dry run that would be permitted)."""
        ...

    def is_trial(self, request: Request) -> bool: ...
    def allows(self, rights: Any, request: Request) -> bool:
        """Whether this policy of the cloud's own form permits it."""
        ...


@dataclass
class Knob:
    """What happens to requests that fit, so many times."""

    effect: str
    """`delay`, `lost` (carried out, never answered), `stale` (an earlier answer), or a kind of refusal."""
    action: str = "*"
    about: str = ""
    who: str = ""
    times: int = 1_000_000
    seconds: float = 0.0
    hits: int = 0


@dataclass
class Knobs:
    """The application."""

    inner: Application
    dialect: Dialect
    knobs: list[Knob] = field(default_factory=list)
    rights: dict[str, Any] = field(default_factory=dict)
    """Policy by credentials; who is not named may do everything."""
    log: list[Request] = field(default_factory=list)
    """What was let through."""
    spans: list[tuple[float, float]] = field(default_factory=list)
    """From when to when each request was inside, by CLOCK_MONOTONIC."""
    on_change: Callable[[], None] = lambda: None
    """Called after each request that changed something."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[tuple[str, str, bytes], Answer] = {}

    def turn(self, effect: str, **words: Any) -> Knob:
        """One more."""
        knob = Knob(effect, **words)
        self.knobs.append(knob)
        return knob

    def clear(self) -> None:
        self.knobs.clear()
        self.rights.clear()

    def changes(self, who: str = "") -> list[Request]:
        """Requests that changed something, in order."""
        return [each for each in self.log if each.changes and who in ("", each.who)]

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        request = self.dialect.read(environ, body)
        begin = time.monotonic()
        status, headers, told = self._answer(environ, request, body)
        self.spans.append((begin, time.monotonic()))
        start(status, headers)
        return [told]

    def _answer(self, environ: dict[str, Any], request: Request | None, body: bytes) -> Answer:
        if request is None:
            return self._pass(environ)
        knob = self._fitting(request)
        effect = knob.effect if knob else ""
        if knob and effect == "delay":
            time.sleep(knob.seconds)
        rights = self.rights.get(request.who)
        if rights is not None and not self.dialect.allows(rights, request):
            return self.dialect.refuse(request, "denied")
        if effect in ("throttled", "broken", "denied", "expired"):
            return self.dialect.refuse(request, effect)
        if self.dialect.is_trial(request):
            return self.dialect.refuse(request, "trial")
        where = f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        key = (request.who, where, b"&".join(sorted(body.split(b"&"))))
        if effect == "stale" and key in self._answers:
            return self._answers[key]
        answer = self._pass(environ)
        with self._lock:
            self.log.append(request)
        self._answers[key] = answer
        if request.changes:
            self.on_change()
        if knob and effect == "lost":
            time.sleep(knob.seconds)
        return answer

    def _fitting(self, request: Request) -> Knob | None:
        with self._lock:
            for knob in self.knobs:
                if knob.hits < knob.times and request.is_about(knob.action, knob.about, knob.who):
                    knob.hits += 1
                    return knob
        return None

    def _pass(self, environ: dict[str, Any]) -> Answer:
        kept: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], fault: Any = None) -> None:
            kept[:] = [status, headers]

        told = b"".join(self.inner(environ, start))
        return kept[0], kept[1], told
