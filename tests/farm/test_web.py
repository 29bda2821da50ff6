"""Real servers and a real load: shares move, nodes drain and return, and no request is lost."""

from __future__ import annotations

import re
from pathlib import Path

from tests.farm.rig import V4, Farm, begin, dealt, shared
from tests.farm.web import HTTP, web_servers, wrk

ASKING_S = 5
THREE = shared("n1", "n2", "n3")


def test_every_node_is_drained_and_returns_under_load_and_no_request_is_lost(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with Farm(3) as farm, web_servers(farm, tmp_path):
        farm.apply(THREE, "n1", port=HTTP)
        asking = [
            wrk(farm, ASKING_S, 12, f"http://{V4}/"),
            wrk(farm, ASKING_S, 4, f"http://{V4}/", "-H", "Connection: close"),
        ]
        chain, rounds = begin(THREE), 0
        while any(process.poll() is None for process in asking):
            for name, others in (("n1", ("n2", "n3")), ("n2", ("n3", "n1")), ("n3", ("n1", "n2"))):
                chain = farm.move(chain, dealt(THREE, name, *others), "n1", port=HTTP)
                chain = farm.move(chain, THREE, "n1", port=HTTP)
            rounds += 1
        reports = [process.communicate()[0] for process in asking]
    assert rounds >= 1
    for report in reports:
        assert "Socket errors" not in report, report
        assert "Non-2xx" not in report, report
        found = re.search(r"(\d+) requests in", report)
        assert found is not None, report
        assert int(found[1]) > 100
