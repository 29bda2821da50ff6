"""An event or effect in a line that a person can read."""

from __future__ import annotations

import re


def brief(what: object) -> str:
    """Its own words, and a record in short."""
    return re.sub(
        r"Record\(.*?epoch=(\d+), primary='(\w+)', in_sync=frozenset\(\{(.*?)\}\),.*?nonce='([^']{1,4}).*?'"
        r".*?reason='(.*?)'\)",
        r"[epoch \1: \2 primary, in sync \3, life \4, \5]",
        repr(what),
    )
