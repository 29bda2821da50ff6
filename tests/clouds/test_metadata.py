"""The three metadata services with the SDKs' own readers, and what they refuse."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CredentialUnavailableError, ManagedIdentityCredential
from azure.mgmt.network import NetworkManagementClient
from botocore.utils import IMDSRegionProvider, InstanceMetadataFetcher
from google.auth import compute_engine
from google.auth.compute_engine import _metadata
from google.auth.transport.requests import Request

from tests.clouds.authority import Authority
from tests.clouds.azure.arm import Arm
from tests.clouds.azure.identity import AUDIENCE
from tests.clouds.azure.site import GROUP, SUBSCRIPTION, machine
from tests.clouds.conftest import options
from tests.clouds.gcp.compute import Compute
from tests.clouds.gcp.site import PROJECT, build, instance
from tests.clouds.knobs import Do
from tests.clouds.metadata.aws import TOKEN_HEADER, TTL_HEADER, Aws, Interface
from tests.clouds.metadata.azure import Azure
from tests.clouds.metadata.gcp import Gcp
from tests.clouds.serving import Served

AT = "computeMetadata/v1"


def get(url: str, **headers: str) -> requests.Response:
    words = {name.replace("_", "-"): text for name, text in headers.items()}
    return requests.get(url, headers=words, timeout=10)


# --- AWS ---


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served[Aws]]:
    interface = Interface(
        "0a:00:00:00:00:01",
        "eni-1",
        "subnet-1",
        "198.18.1.0/24",
        "vpc-1",
        "198.18.0.0/20",
        ("198.18.1.10", "198.18.1.77"),
    )
    with Served(Aws(interfaces=lambda: [interface], role="node")) as served:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", served.url)
        yield served


def aws_token(served: Served[Aws], ttl: str = "60", **headers: str) -> requests.Response:
    words = {TTL_HEADER: ttl} | {name.replace("_", "-"): text for name, text in headers.items()}
    return requests.put(f"{served.url}/latest/api/token", headers=words, timeout=10)


def test_botocore_reads_credentials_and_region(aws: Served[Aws]) -> None:
    import botocore.session

    told = InstanceMetadataFetcher(base_url=aws.url).retrieve_iam_role_credentials()
    assert told["role_name"] == "node"
    session = botocore.session.get_session()
    assert IMDSRegionProvider(session).provide() == "eu-central-1"


def test_an_interface_is_found_by_its_mac(aws: Served[Aws]) -> None:
    headers = {TOKEN_HEADER: aws_token(aws).text}

    def read(path: str) -> str:
        answer = requests.get(f"{aws.url}/latest/meta-data/{path}", headers=headers, timeout=10)
        assert answer.status_code == 200
        return answer.text

    folder = f"network/interfaces/macs/{read('mac')}"
    assert read("network/interfaces/macs/") == "0a:00:00:00:00:01/"
    assert read(f"{folder}/subnet-id") == "subnet-1"
    assert read(f"{folder}/local-ipv4s").split() == ["198.18.1.10", "198.18.1.77"]
    missing = requests.get(f"{aws.url}/latest/meta-data/spot/instance-action", headers=headers, timeout=10)
    assert missing.status_code == 404


def test_nothing_is_told_without_a_token(aws: Served[Aws]) -> None:
    where = f"{aws.url}/latest/meta-data/instance-id"
    assert get(where).status_code == 401
    assert get(where, **{TOKEN_HEADER: "guessed"}).status_code == 401
    aws.face.knobs.turn(Do.EXPIRED, "read", times=1)
    token = aws_token(aws).text
    assert [get(where, **{TOKEN_HEADER: token}).status_code for _ in range(2)] == [401, 200]


@pytest.mark.parametrize(
    ("ttl", "headers", "status"),
    [("0", {}, 400), ("21601", {}, 400), ("soon", {}, 400), ("60", {"X_Forwarded_For": "1.2.3.4"}, 403)],
)
def test_a_token_must_be_asked_for_rightly(
    aws: Served[Aws], ttl: str, headers: dict[str, str], status: int
) -> None:
    assert aws_token(aws, ttl, **headers).status_code == status


# --- Azure ---


@pytest.fixture
def azure(arm: Served[Arm], monkeypatch: pytest.MonkeyPatch) -> Iterator[Served[Azure]]:
    with Served(Azure(arm=arm.face, machine=machine("n1"), identity="node-1")) as served:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", served.url)
        yield served


def azure_get(served: Served[Azure], what: str, version: str) -> requests.Response:
    return get(f"{served.url}/metadata/{what}?api-version={version}", Metadata="true")


def test_a_machine_knows_itself(azure: Served[Azure]) -> None:
    told = azure_get(azure, "instance", "2021-02-01").json()
    assert told["compute"]["resourceId"] == machine("n1")
    (interface,) = told["network"]["interface"]
    assert interface["ipv4"]["ipAddress"][0]["privateIpAddress"] == "198.18.1.10"
    assert interface["ipv4"]["subnet"] == [{"address": "198.18.1.0", "prefix": "24"}]
    assert azure_get(azure, "instance/compute/name", "2021-02-01").json() == "n1"
    assert azure_get(azure, "instance/compute/nothing", "2021-02-01").status_code == 404


def test_azure_wants_its_header_and_a_version(azure: Served[Azure]) -> None:
    where = f"{azure.url}/metadata/instance?api-version=2021-02-01"
    assert get(where).status_code == 400
    assert get(where, Metadata="true", X_Forwarded_For="1.2.3.4").status_code == 400
    answer = azure_get(azure, "instance", "1999-01-01")
    assert (answer.status_code, "2021-02-01" in answer.json()["newest-versions"]) == (400, True)


def test_a_machine_gets_tokens_by_its_identity(
    azure: Served[Azure], arm: Served[Arm], authority: Authority
) -> None:
    credential = ManagedIdentityCredential()
    with NetworkManagementClient(credential, SUBSCRIPTION, **options(arm, authority.ca)) as network:
        assert network.route_tables.get(GROUP, "rt1").name == "rt1"
    assert [each.call.who for each in arm.face.knobs.done] == ["node-1"]


def test_a_machine_without_an_identity_gets_none(azure: Served[Azure]) -> None:
    azure.face.identity = ""
    with pytest.raises((CredentialUnavailableError, ClientAuthenticationError)):
        ManagedIdentityCredential(retry_total=0).get_token(f"{AUDIENCE}/.default")


def test_a_machine_hears_what_will_happen_to_it(azure: Served[Azure]) -> None:
    first = azure_get(azure, "scheduledevents", "2020-07-01").json()
    assert first["Events"] == []
    event = azure.do(lambda: azure.face.schedule("Freeze", "n1"))
    then = azure_get(azure, "scheduledevents", "2020-07-01").json()
    assert then["DocumentIncarnation"] > first["DocumentIncarnation"]
    assert [each["EventType"] for each in then["Events"]] == ["Freeze"]
    where = f"{azure.url}/metadata/scheduledevents?api-version=2020-07-01"
    started = {"StartRequests": [{"EventId": event}]}
    assert requests.post(where, json=started, headers={"Metadata": "true"}, timeout=10).ok
    assert azure.face.approved == [event]


# --- GCP ---


@pytest.fixture
def gcp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served[Gcp]]:
    cloud = Compute()
    build(cloud)
    with Served(Gcp(cloud=cloud, machine=instance("n1"), account="node@shop-1.test")) as served:
        # The SDK reads this one from GCE_METADATA_HOST when it is imported, and the other one always.
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", served.address)
        monkeypatch.setenv("GCE_METADATA_IP", served.address)
        yield served


def gcp_get(served: Served[Gcp], what: str) -> requests.Response:
    return get(f"{served.url}/{AT}/{what}", Metadata_Flavor="Google")


def test_the_sdk_finds_the_service_and_its_project(gcp: Served[Gcp]) -> None:
    assert _metadata.ping(Request())
    assert _metadata.get_project_id(Request()) == PROJECT
    credentials = compute_engine.Credentials()
    credentials.refresh(Request())
    assert gcp.face.cloud.tokens.of(f"Bearer {credentials.token}").who == "node@shop-1.test"  # type: ignore[union-attr]


def test_an_instance_is_told_whole_and_in_parts(gcp: Served[Gcp]) -> None:
    whole = gcp_get(gcp, "instance/?recursive=true")
    assert whole.headers["Metadata-Flavor"] == "Google"
    told = whole.json()
    assert told["zone"] == f"projects/{PROJECT}/zones/europe-west1-b"
    assert told["networkInterfaces"][0]["ip"] == "198.18.1.10"
    assert told["networkInterfaces"][0]["forwardedIps"] == ["198.18.1.100"]
    assert gcp_get(gcp, "instance/network-interfaces/0/ip").text == "198.18.1.10"
    assert gcp_get(gcp, "instance/network-interfaces/").text == "0/\n"
    assert gcp_get(gcp, "instance/nothing").status_code == 404


def test_google_wants_its_header(gcp: Served[Gcp]) -> None:
    where = f"{gcp.url}/{AT}/instance/name"
    assert get(where).status_code == 403
    assert get(where, Metadata_Flavor="Google", X_Forwarded_For="1.2.3.4").status_code == 403


def test_a_reader_waits_until_something_changes(gcp: Served[Gcp]) -> None:
    aliases = "instance/network-interfaces/0/ip-aliases"
    waiting = f"{aliases}?recursive=true&wait_for_change=true"
    first = gcp_get(gcp, f"{waiting}&timeout_sec=0")
    assert first.json() == []
    heard: list[object] = []
    query = f"{waiting}&timeout_sec=60&last_etag={first.headers['ETag']}"
    reader = threading.Thread(target=lambda: heard.append(gcp_get(gcp, query).json()))
    reader.start()
    interface = gcp.face.cloud.store.resources[instance("n1")]["networkInterfaces"][0]
    gcp.do(lambda: interface.update(aliasIpRanges=[{"ipCidrRange": "198.18.1.77/32"}]))
    reader.join(timeout=30)
    assert heard == [["198.18.1.77/32"]]


def test_a_machine_hears_that_it_is_taken_away(gcp: Served[Gcp]) -> None:
    assert gcp_get(gcp, "instance/preempted").text == "FALSE"
    assert gcp_get(gcp, "instance/maintenance-event").text == "NONE"
    gcp.face.preempted, gcp.face.maintenance = True, "MIGRATE_ON_HOST_MAINTENANCE"
    assert gcp_get(gcp, "instance/preempted").text == "TRUE"
    assert gcp_get(gcp, "instance/maintenance-event").text == "MIGRATE_ON_HOST_MAINTENANCE"


# --- all ---


@pytest.mark.parametrize(("words", "status"), [({"status": 500}, 500), ({"status": 503, "skip": 1}, 200)])
def test_a_metadata_service_can_be_broken(gcp: Served[Gcp], words: dict[str, int], status: int) -> None:
    gcp.face.knobs.turn(Do.BROKEN, "read", **words)
    assert gcp_get(gcp, "instance/name").status_code == status
