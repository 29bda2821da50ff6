"""Ask the running application, again and again, whether it answers."""

from __future__ import annotations

import asyncio
import os
import shlex
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator.host.cgroup import Group, group, kill_all
from orchestrator.host.process import ending, spawn
from orchestrator.model.config import CheckConfig
from orchestrator.model.errors import HafarmError
from orchestrator.model.events import CheckFailed, ChecksPassed, ModuleEvent
from orchestrator.model.names import ModuleName

STATUS_LINE_MAX = 4096
"""Far more than any HTTP status line; a server that sends more is not one."""
OUTPUT_BYTES = 300
"""What of a custom check's output is shown: one line of a status screen."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The last answer of one check."""

    good: bool
    text: str
    at: float
    """Seconds since the epoch, for people."""
    failures: int
    """In a row."""


class Checks:
    """All checks of one module, each in its own pace."""

    def __init__(
        self,
        module: ModuleName,
        checks: tuple[CheckConfig, ...],
        on_event: Callable[[ModuleEvent], None],
        tell_good: bool = False,
    ) -> None:
        """`tell_good`: `ChecksPassed` once each was good since the start."""
        self._module = module
        self._tell_good = tell_good
        self._never_good: set[str] = set()
        self._checks = checks
        self._on_event = on_event
        self._tasks: list[asyncio.Task[None]] = []
        self.results: dict[str, CheckResult] = {}

    def start(self, variables: Mapping[str, str], grace_s: float = 0.0) -> None:
        """Begin asking; `variables` are the custom checks' environment.

        For `grace_s` a check that was never good yet counts no failure: an application may take its time to
        come up, and one that is restarted meanwhile never does.
        """
        assert not self._tasks, "checks are started once, after the application"
        self.results.clear()
        self._never_good = {check.name for check in self._checks}
        self._tasks = [asyncio.create_task(self._repeat(check, variables, grace_s)) for check in self._checks]

    async def stop(self) -> None:
        """Ask no more; when this returns no check runs and none will report."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _repeat(self, check: CheckConfig, variables: Mapping[str, str], grace_s: float) -> None:
        failures = 0
        lenient_until = time.monotonic() + grace_s
        while True:
            began = time.monotonic()
            good, text = await ask(self._module, check, variables)
            if good:
                lenient_until = began
                self._was_good(check.name)
            failures = 0 if good or began < lenient_until else failures + 1
            self.results[check.name] = CheckResult(good, text, time.time(), failures)
            # Each further `fail_after` failures are told again: the first answer may not have helped.
            if failures and failures % check.fail_after == 0:
                self._on_event(CheckFailed(self._module, check.name, check.action))
            await asyncio.sleep(max(0.0, check.every_s - (time.monotonic() - began)))

    def _was_good(self, name: str) -> None:
        if name in self._never_good:
            self._never_good.discard(name)
            if self._tell_good and not self._never_good:
                self._on_event(ChecksPassed(self._module))


async def ask(module: ModuleName, check: CheckConfig, variables: Mapping[str, str]) -> tuple[bool, str]:
    """One question: whether the answer is good, and the answer for people."""
    try:
        async with asyncio.timeout(check.timeout_s):
            match check.kind:
                case "tcp":
                    return await _ask_tcp(check.target)
                case "http":
                    return await _ask_http(check.target)
                case "custom":
                    return await _ask_command(module, check, variables)
    except TimeoutError:
        return False, f"no answer within {check.timeout_s:g} s"
    except (OSError, ValueError, HafarmError) as fault:
        return False, str(fault)


async def _ask_tcp(target: str) -> tuple[bool, str]:
    host, _, port = target.rpartition(":")
    _, writer = await asyncio.open_connection(host.strip("[]") or "127.0.0.1", int(port))
    writer.close()
    return True, "connected"


def _lenient_context() -> ssl.SSLContext:
    """The question is whether it answers, not who it is: a self-signed certificate is good enough."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _ask_http(url: str) -> tuple[bool, str]:
    parts = urlsplit(url)
    host, secure = parts.hostname or "127.0.0.1", parts.scheme == "https"
    context = _lenient_context() if secure else None
    reader, writer = await asyncio.open_connection(
        host, parts.port or (443 if secure else 80), ssl=context, limit=STATUS_LINE_MAX
    )
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: hafarm\r\nConnection: close\r\n\r\n"
        )
        writer.write(request.encode("ascii", "replace"))
        words = (await reader.readline()).decode("latin-1").split(maxsplit=2)
    finally:
        # No farewell: a server that hangs must not hold the next question up.
        writer.transport.abort()
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
        return False, "the answer is not HTTP"
    # A redirect is an answer; following it would ask something else than the operator named.
    return 200 <= int(words[1]) < 400, f"HTTP {words[1]}"


async def _ask_command(
    module: ModuleName, check: CheckConfig, variables: Mapping[str, str]
) -> tuple[bool, str]:
    own = group(f"{module}/check-{check.name}")
    await kill_all(own)
    output = os.memfd_create("check")
    try:
        process = spawn(shlex.split(check.target), own, output, more=variables)
        try:
            status = await process.wait()
        finally:
            process.close()
            await asyncio.shield(_end(own))
        size = os.fstat(output).st_size
        said = os.pread(output, OUTPUT_BYTES, max(0, size - OUTPUT_BYTES)).decode(errors="replace").strip()
        return status == 0, " | ".join(said.splitlines()) or ending(status)
    finally:
        os.close(output)


async def _end(own: Group) -> None:
    await kill_all(own)
    own.remove()
