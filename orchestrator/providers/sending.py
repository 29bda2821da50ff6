"""Leave for each request that changes something, asked by its thread directly before it is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Final

from orchestrator.providers.faults import ProviderFault, Superseded
from orchestrator.providers.mover import Leave

AT_ONCE: Final = 4
"""Requests side by side: clouds throttle a burst, and each takes some hundred milliseconds."""
_LEAVE: ContextVar[Leave | None] = ContextVar("leave", default=None)
_SENT: ContextVar[list[str] | None] = ContextVar("sent", default=None)


@contextmanager
def under(leave: Leave) -> Iterator[list[str]]:
    """What is sent inside, by this thread, may change something if `leave` says so; the names of what was."""
    sent: list[str] = []
    former, noted = _LEAVE.set(leave), _SENT.set(sent)
    try:
        yield sent
    finally:
        _LEAVE.reset(former)
        _SENT.reset(noted)


def ask_for_leave(name: str) -> None:
    """Of the library's last hook before the socket, for a request that changes something; Superseded: no."""
    leave, sent = _LEAVE.get(), _SENT.get()
    assert leave is not None, f"{name} without leave"
    assert sent is not None
    leave.check(name)
    sent.append(name)


def side_by_side(deeds: Mapping[str, Callable[[], None]]) -> Mapping[str, ProviderFault]:
    """Each to its end; what failed. An order that is out of date counts for all."""
    failed: dict[str, ProviderFault] = {}
    with ThreadPoolExecutor(AT_ONCE, "part") as threads:
        # Each thread takes the leave of the order along.
        running = {part: threads.submit(copy_context().run, deed) for part, deed in deeds.items()}
    for part, done in running.items():
        fault = done.exception()
        if isinstance(fault, Superseded) or (fault is not None and not isinstance(fault, ProviderFault)):
            raise fault
        if isinstance(fault, ProviderFault):
            failed[part] = fault
    return failed
