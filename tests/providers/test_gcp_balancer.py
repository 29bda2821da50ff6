"""What a load balancer of GCP's must be like, and what is found where it is otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.cloud import compute_v1

from orchestrator.providers.gcp.firewall import admits
from orchestrator.providers.gcp.ground import Nic
from orchestrator.providers.provider import Owner
from tests.providers.gcp_here import (
    Leave,
    as_paris,
    made,
    preflight,
    seen,
    told,
)
from tests.providers.gcp_scenes import (
    PROJECT,
    REGION,
    IlbProbe,
    instance,
)
from tests.providers.nodes import BOTH, LYON, PARIS
from tests.providers.scenes import STRANGER

# --- a load balancer ------------------------------------------------------------------------------


def test_a_balancer_that_is_as_it_should_be_gives_nothing_to_mend(probed: IlbProbe) -> None:
    assert told(preflight(probed)) == ""
    probed.give(LYON)
    assert (seen(probed).owner, seen(probed).nodes) == (Owner.NODE, {LYON})
    with as_paris(probed):
        node = made(probed)
        node.choices()  # the agent asks when it starts
        probed.knobs.forget()
        assert node.claim(probed.address, BOTH, Leave()).changes == 0
    assert probed.knobs.log == [], "a move asks nothing of GCP"


def test_what_a_balancer_does_otherwise_is_found(probed: IlbProbe) -> None:
    held = probed.gcp.cloud.store.resources
    base = f"projects/{PROJECT}/regions/{REGION}"
    kept = {path: json.loads(json.dumps(each)) for path, each in held.items()}
    held[f"{base}/healthChecks/shop"]["httpHealthCheck"] = {"port": 80, "requestPath": "/"}
    held[f"{base}/backendServices/shop"] |= {"failoverPolicy": {}, "connectionTrackingPolicy": {}}
    del held[f"projects/{PROJECT}/global/firewalls/probes"]
    probed.gcp.cloud.changes.groups[probed.group(LYON)] = [instance(STRANGER)]
    try:
        text = told(preflight(probed))
    finally:
        held.clear()
        held.update(kept)
        probed.give()
    for said in (
        "it asks HTTP /; HTTP, path /m/shop/primary",
        "asks port 80; port 9702",
        "no group behind it has lyon",
        "stranger is no node of this cluster",
        "sends to all groups where no node is healthy",
        "leaves established connections",
        "paris: no firewall rule of net lets probes from 130.211.0.0/22, 35.191.0.0/16 in; allow tcp:9702",
    ):
        assert said in text


def firewall(**words: Any) -> compute_v1.Firewall:
    base = {"direction": "INGRESS", "priority": 1000, "source_ranges": ["35.191.0.0/16"]}
    return compute_v1.Firewall({**base, **words})


TCP = {"I_p_protocol": "tcp", "ports": ["9700-9709"]}


@pytest.mark.parametrize(
    ("rules", "admitted"),
    [
        ([], False),
        ([firewall(allowed=[TCP])], True),
        ([firewall(allowed=[{"I_p_protocol": "all"}], source_ranges=[])], True),
        ([firewall(allowed=[{"I_p_protocol": "tcp", "ports": ["9702"]}])], True),
        ([firewall(allowed=[{"I_p_protocol": "tcp", "ports": ["970"]}])], False),
        ([firewall(allowed=[{"I_p_protocol": "udp"}])], False),
        ([firewall(allowed=[TCP], disabled=True)], False),
        ([firewall(allowed=[TCP], direction="EGRESS")], False),
        ([firewall(allowed=[TCP], source_ranges=["35.191.0.0/17"])], False),
        ([firewall(allowed=[TCP], source_ranges=["0.0.0.0/0"], target_tags=["web"])], False),
        ([firewall(allowed=[TCP], target_tags=["shop"])], True),
        ([firewall(allowed=[TCP], target_service_accounts=["a@b"])], True),
        ([firewall(allowed=[TCP], source_ranges=[], source_tags=["shop"])], False),
        ([firewall(allowed=[TCP]), firewall(denied=[TCP])], False),
        ([firewall(allowed=[TCP], priority=900), firewall(denied=[TCP])], True),
        (
            [firewall(allowed=[TCP]), firewall(denied=[TCP], priority=900, source_ranges=["35.191.7.0/24"])],
            False,
        ),
        ([firewall(allowed=[TCP], source_ranges=["::/0"])], False),
    ],
)
def test_the_rule_with_the_lowest_number_decides(rules: list[Any], admitted: bool) -> None:
    nic = Nic(
        PARIS, instance(PARIS), "nic0", "10.0.1.11", "s", "n", True, frozenset({"shop"}), frozenset({"a@b"})
    )
    assert admits(rules, "35.191.0.0/16", 9702, nic) is admitted
