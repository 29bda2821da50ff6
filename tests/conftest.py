"""For all tests: as root, on a machine that can do everything, a skipped test is a failed one."""

from __future__ import annotations

import os

import pytest

_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and os.geteuid() == 0 and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and os.geteuid() == 0:
        terminalreporter.write_line(f"{len(_skipped)} skipped as root, which counts as failed:", red=True)
        for name in _skipped:
            terminalreporter.write_line(f"  {name}")
