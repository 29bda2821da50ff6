"""`witness:` in hafarm.yaml: each kind of register becomes the model's values, each mistake is named."""

from __future__ import annotations

import pytest

from orchestrator.config.load import load_text
from orchestrator.model.config import BucketConfig, EtcdConfig, WitnessConfig
from tests.config.words import changed, refused

GIVEN = '{kind: witness, url: "https://198.18.0.20:9700"}'


def witness(text: str) -> WitnessConfig:
    return load_text(changed(GIVEN, text), "hafarm.yaml").witness


def test_each_kind_becomes_the_models_values() -> None:
    assert witness('{url: "https://h:1"}') == WitnessConfig("witness", "https://h:1")
    ensemble = witness('{kind: etcd, endpoints: ["https://h:2379/", "http://127.0.0.1:2379"], ca: /etc/ca}')
    assert ensemble.kind == "etcd"
    assert ensemble.etcd == EtcdConfig(("https://h:2379", "http://127.0.0.1:2379"), "hafarm/", "/etc/ca")
    bucket = witness("{kind: s3, bucket: b-1, region: eu-central-1, prefix: a/b/}").bucket
    assert bucket == BucketConfig("s3", "b-1", "a/b/", "eu-central-1")
    assert witness("{kind: gcs, bucket: b_1}").bucket == BucketConfig("gcs", "b_1")
    blob = witness("{kind: blob, account: acc1, container: cont}").bucket
    assert blob == BucketConfig("blob", "cont", account="acc1")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{kind: zookeeper}", "cluster.witness.kind: no kind of register; these are: witness, etcd, s3, gcs"),
        ("{kind: etcd}", "cluster.witness.endpoints: is missing"),
        ("{kind: etcd, endpoints: []}", "at least 1"),
        ('{kind: etcd, endpoints: ["http://198.18.0.1:2379"]}', "https is needed: whoever is between"),
        ('{kind: etcd, endpoints: ["https://u:p@h:2379"]}', "a URL holds no password"),
        ('{kind: etcd, endpoints: ["https://h:2379/v3"]}', "only https://HOST:PORT"),
        ('{kind: etcd, endpoints: ["https://h:1", "https://h:1/"]}', "is given twice"),
        ('{kind: etcd, endpoints: ["https://h:99999"]}', "Port out of range"),
        ('{kind: etcd, endpoints: ["h:2379"]}', "https://HOST:PORT is needed"),
        ('{kind: etcd, endpoints: ["https://h:1"], cert: /a}', "cert and key go together"),
        ('{kind: etcd, endpoints: ["https://h:1"], user: a}', "user and password_file go together"),
        (
            '{kind: etcd, endpoints: ["https://h:1"], password: a}',
            "unknown field, did you mean 'password_file'",
        ),
        ('{kind: etcd, endpoints: ["https://h:1"], ca: ca.crt}', "an absolute path"),
        ("{kind: s3, bucket: B, region: eu-central-1}", "cluster.witness.bucket: String should match"),
        ("{kind: s3, bucket: bbb}", "cluster.witness.region: is missing"),
        ("{kind: s3, bucket: bbb, regon: a}", "unknown field, did you mean 'region'"),
        ("{kind: s3, bucket: bbb, region: eu-central-1, prefix: hafarm}", "a prefix ends with one /"),
        ('{kind: gcs, bucket: bbb, endpoint: "http://h"}', "https is needed"),
        ("{kind: gcs, bucket: bbb, region: a}", "unknown field"),
        ("{kind: blob, account: a-b, container: ccc}", "cluster.witness.account: String should match"),
        ("{kind: blob, account: acc1, bucket: ccc}", "cluster.witness.container: is missing"),
        ('{kind: witness, url: "https://h:1", region: a}', "unknown field"),
    ],
)
def test_a_mistake_is_named_where_it_is(text: str, told: str) -> None:
    found = refused(changed(GIVEN, text))
    assert any(told in line for line in found), found
    assert all(line.startswith("hafarm.yaml:1:") for line in found), found
