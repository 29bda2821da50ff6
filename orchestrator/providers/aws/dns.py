"""`dns`: a record in a hosted zone of Route 53, changed by one batch that names the old one exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from orchestrator.providers.aws.ground import Ground
from orchestrator.providers.aws.mode import AwsMode, statement
from orchestrator.providers.faults import PlaceWrong
from orchestrator.providers.mover import Place, Vip
from orchestrator.providers.names import ByName, Record, in_zone, kind_of, plain, record_of

ODD: Final = ("AliasTarget", "SetIdentifier", "TrafficPolicyInstanceId")
"""What a record has that is chosen by weight, place or health, or is none of its own."""


class Dns(ByName[Ground], AwsMode):
    """A batch is carried out whole or not at all: a DELETE that fits nothing refuses the CREATE beside it."""

    @property
    def _place(self) -> Place:
        return self._ground.place

    def _read(self, vip: Vip) -> Record | None:
        name, kind = record_of(vip), kind_of(vip)
        words = {"HostedZoneId": zone_of(vip), "StartRecordName": f"{name}.", "StartRecordType": kind}
        answer = self._call(
            lambda: self._client.list_resource_record_sets(**words, MaxItems="1"),
            f"ListResourceRecordSets of {name}",
        )
        # The first at or behind that name.
        for found in answer["ResourceRecordSets"]:
            if found["Name"].rstrip(".").lower() == name and found["Type"] == kind:
                plain(found, ODD, name)
                return Record(
                    int(found["TTL"]), tuple(str(each["Value"]) for each in found["ResourceRecords"])
                )
        return None

    def _swap(self, vip: Vip, before: Record | None, after: Record) -> None:
        """Refused as a whole where the zone has something else by now (InvalidChangeBatch)."""
        name = record_of(vip)
        changes = [_change("DELETE", vip, before)] if before is not None else []
        words = {
            "HostedZoneId": zone_of(vip),
            "ChangeBatch": {"Changes": [*changes, _change("CREATE", vip, after)]},
        }
        self._call(
            lambda: self._client.change_resource_record_sets(**words), f"ChangeResourceRecordSets of {name}"
        )

    def check(self, vip: Vip) -> None:
        """Also: the record's name is in that zone."""
        name, zone = record_of(vip), zone_of(vip)
        answer = self._call(lambda: self._client.get_hosted_zone(Id=zone), f"GetHostedZone {zone}")
        of_zone = str(answer["HostedZone"]["Name"])
        if not in_zone(name, of_zone):
            raise PlaceWrong(name, f"is not in zone {zone}, which is {of_zone}", "correct one of them")
        super().check(vip)

    @property
    def _client(self) -> Any:
        return self._ground.account.client("route53")

    @staticmethod
    def rights(vips: Sequence[Vip], region: str) -> list[dict[str, Any]]:
        zones = sorted({f"arn:aws:route53:::hostedzone/{zone_of(vip)}" for vip in vips})
        moves = statement("MoveRecords", ["route53:ChangeResourceRecordSets"], zones)
        names = sorted({record_of(vip) for vip in vips})
        key = "route53:ChangeResourceRecordSetsNormalizedRecordNames"
        moves["Condition"] = {"ForAllValues:StringEquals": {key: names}}
        looks = ["route53:GetHostedZone", "route53:ListResourceRecordSets"]
        return [statement("LookAtRecords", looks, zones), moves]


def zone_of(vip: Vip) -> str:
    """As AWS shows it in some places there is a path before it."""
    return vip.setting("zone").rpartition("/")[2]


def _change(action: str, vip: Vip, record: Record) -> dict[str, Any]:
    return {
        "Action": action,
        "ResourceRecordSet": {
            "Name": f"{record_of(vip)}.",
            "Type": kind_of(vip),
            "TTL": record.ttl,
            "ResourceRecords": [{"Value": value} for value in record.values],
        },
    }
