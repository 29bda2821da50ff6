"""For all tests: as root a skipped test is a failed one, and so is what stays on the machine."""

from __future__ import annotations

import os

import hypothesis
import pytest

from tests.support import leftovers

# How long an example takes says nothing on a shared machine.
hypothesis.settings.register_profile("hafarm", deadline=None)
hypothesis.settings.load_profile("hafarm")
_skipped: list[str] = []
_left: list[str] = []


def pytest_sessionstart() -> None:
    leftovers.mark()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


@pytest.fixture(autouse=True, scope="session")
def _temporary_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    leftovers.remember(tmp_path_factory.getbasetemp())


def pytest_sessionfinish(session: pytest.Session) -> None:
    _left.extend(leftovers.left())
    wrong = bool(_left) or (bool(_skipped) and os.geteuid() == 0)
    if wrong and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and os.geteuid() == 0:
        terminalreporter.write_line(f"{len(_skipped)} skipped as root, which counts as failed:", red=True)
        for name in _skipped:
            terminalreporter.write_line(f"  {name}")
    if _left:
        terminalreporter.write_line("the tests left on this machine, which counts as failed:", red=True)
        for name in _left:
            terminalreporter.write_line(f"  {name}")
