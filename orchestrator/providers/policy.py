"""`python -m orchestrator.providers.policy NAME`: the least rights for a place that is read as JSON.

No cloud is asked: it can be printed before there is one.
"""

from __future__ import annotations

import json
import sys

from orchestrator.providers.mover import place_from_dict
from orchestrator.providers.worker import answer, find


def main() -> None:
    """One object: `ok` with documents by the role that needs them, or `error`."""
    place = place_from_dict(json.load(sys.stdin))
    print(json.dumps(answer(lambda: find(sys.argv[1]).policy(place))))


if __name__ == "__main__":
    main()
