"""`python -m orchestrator.pulse SETTINGS.json`: the pulse of one node."""

import sys

from orchestrator.pulse.process import main

main(sys.argv[1])
