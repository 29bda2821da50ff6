"""The demonstration's application with fsync left out: what a sound rig must report as loss.

It goes on exactly like the other one; only SQLite is told to leave all flushing to chance.
"""

from __future__ import annotations

from orchestrator.demo import application


class CarelessRows(application.Rows):
    """Rows that are acknowledged while they are in memory only."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self._base.execute("PRAGMA synchronous=OFF")


if __name__ == "__main__":
    application.Rows = CarelessRows  # type: ignore[misc]
    application.main()
