"""What each kind of check takes for an answer."""

from __future__ import annotations

import asyncio
import os
import time

from orchestrator.host.cgroup import group
from orchestrator.host.checks import Checks, ask
from orchestrator.model.config import CheckConfig
from orchestrator.model.events import CheckFailed
from orchestrator.model.names import ModuleName
from tests.support.waiting import until

SHOP = ModuleName(f"checked-{os.getpid()}")


async def serve(answer: bytes) -> asyncio.Server:
    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    return await asyncio.start_server(one, "127.0.0.1", 0)


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def answer_to(status: bytes) -> bool:
    async def story() -> bool:
        async with await serve(status) as server:
            url = f"http://127.0.0.1:{port_of(server)}/health"
            return (await ask(SHOP, CheckConfig("web", "http", url, timeout_s=10), {}))[0]

    return asyncio.run(story())


def test_http_is_good_for_success_and_redirects_only() -> None:
    assert answer_to(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert answer_to(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n")
    assert not answer_to(b"HTTP/1.1 500 Oops\r\n\r\n")
    assert not answer_to(b"SSH-2.0-OpenSSH\r\n")
    assert not answer_to(b"")


def test_tcp_is_good_while_somebody_listens() -> None:
    async def story() -> None:
        server = await serve(b"")
        check = CheckConfig("port", "tcp", str(port_of(server)), timeout_s=10)
        assert (await ask(SHOP, check, {}))[0]
        server.close()
        await server.wait_closed()
        assert not (await ask(SHOP, check, {}))[0]

    asyncio.run(story())


def test_a_custom_check_that_hangs_is_bad_and_nothing_of_it_lives() -> None:
    check = CheckConfig("hangs", "custom", "sh -c 'setsid sleep 600 & sleep 600'", timeout_s=0.3)
    good, text = asyncio.run(ask(SHOP, check, {}))
    assert not good
    assert "0.3 s" in text
    assert group(f"{SHOP}/check-hangs").pids() == []


def test_a_failure_is_told_after_so_many_in_a_row_and_again_after_as_many_more() -> None:
    async def story() -> None:
        told: list[tuple[str, int]] = []
        check = CheckConfig("no", "custom", "false", every_s=0.01, timeout_s=10, fail_after=3, action="swap")
        checks = Checks(
            SHOP, (check,), lambda event: told.append((event.action, checks.results["no"].failures))
        )
        checks.start({})
        await until(lambda: len(told) >= 2)
        await checks.stop()
        assert told[:2] == [("swap", 3), ("swap", 6)]

    asyncio.run(story())


def test_one_good_answer_forgives() -> None:
    async def story() -> None:
        told: list[CheckFailed] = []
        check = CheckConfig("flaps", "custom", "true", every_s=0.01, timeout_s=10, fail_after=1)
        checks = Checks(SHOP, (check,), told.append)
        checks.start({})
        await until(lambda: "flaps" in checks.results)
        assert checks.results["flaps"].good
        assert checks.results["flaps"].failures == 0
        await checks.stop()
        assert told == []

    asyncio.run(story())


def test_an_application_that_comes_up_slowly_is_not_blamed_until_it_was_good_or_its_time_is_over() -> None:
    async def failures_within(grace_s: float, good_first: bool) -> float:
        """After how long the first failure was told, of a check that turns bad or never was good."""
        told = asyncio.Event()
        listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        target = str(listener.sockets[0].getsockname()[1])
        check = CheckConfig(name="port", kind="tcp", target=target, every_s=0.05, timeout_s=5.0, fail_after=2)
        if not good_first:
            listener.close()
        checks = Checks(SHOP, (check,), lambda _: told.set())
        begun = time.monotonic()
        checks.start({}, grace_s)
        if good_first:
            await until(lambda: "port" in checks.results and checks.results["port"].good)
            listener.close()
        await asyncio.wait_for(told.wait(), 20)
        await checks.stop()
        return time.monotonic() - begun

    assert asyncio.run(failures_within(1.5, good_first=False)) > 1.5
    assert asyncio.run(failures_within(15.0, good_first=True)) < 15.0
