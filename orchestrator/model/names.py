"""The names of things, one type for each kind, so that two kinds cannot be mixed up."""

from __future__ import annotations

import re
from typing import Final, NewType

ClusterName = NewType("ClusterName", str)
NodeName = NewType("NodeName", str)
ModuleName = NewType("ModuleName", str)
PathName = NewType("PathName", str)
"""One network between the nodes, as `addresses:` names it (`lan`, `backup`)."""

Epoch = NewType("Epoch", int)
"""The fencing number: grows with each change of who may write. 0 means that no record was ever known."""

Nonce = NewType("Nonce", str)
"""128 random bits as 32 hexadecimal digits: one life of a gate, or one forced reign."""

Instant = NewType("Instant", float)
"""Seconds of this node's CLOCK_BOOTTIME; never compared across nodes."""

RequestId = NewType("RequestId", str)
"""One operator's request, so that its answer finds the asker."""

NEVER: Final = Epoch(0)

# 63: a DNS label, so that a name can be a host name and a certificate's common name; it also bounds the
# heartbeat datagram.
NAME_PATTERN: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

NODES_MAX: Final = 64
"""Of a farm: with more a node has less than 16 of the 1,024 buckets, and one is more than 6 % of its load."""

RESERVED_NODES: Final = frozenset({"ca", "witness"})
"""Folders of `hafarm init` beside those of the nodes."""
