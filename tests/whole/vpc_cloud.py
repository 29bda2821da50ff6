"""The cloud of `vpc`: a process in the router's namespace, whose route tables are the router's own routes.

    python -m tests.whole.vpc_cloud HOST PORT NODE=198.18.N...

Prints the names of its route tables as one line of JSON when everything is built.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading

from tests.support.clouds.aws import Simulated, Vpc

TABLES = 2
"""As in a VPC with a table for each zone; the first one is the router's."""


def main() -> None:
    host, port = sys.argv[1], int(sys.argv[2])
    nodes = dict(word.split("=") for word in sys.argv[3:])
    with Simulated(host, port) as aws:
        subnets = {name: f"{prefix}.0/24" for name, prefix in nodes.items()}
        vpc = Vpc(aws, "198.18.0.0/16", subnets, tables=TABLES)
        for name, prefix in nodes.items():
            vpc.node(name, name, f"{prefix}.10")
        by_eni = {eni: name for name, eni in vpc.enis.items()}

        def to_kernel() -> None:
            for route in vpc.ec2.describe_route_tables(RouteTableIds=vpc.tables[:1])["RouteTables"][0][
                "Routes"
            ]:
                name, target = (
                    by_eni.get(route.get("NetworkInterfaceId", "")),
                    route.get("DestinationCidrBlock"),
                )
                if name and target:
                    way = ["via", f"{nodes[name]}.10", "dev", name]
                    subprocess.run(["ip", "route", "replace", target, *way], check=True)

        aws.knobs.on_change = to_kernel
        print(json.dumps(vpc.tables), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
