"""`python -m orchestrator.cli`: the same as `hafarm`."""

from orchestrator.cli.main import main

if __name__ == "__main__":
    main()
