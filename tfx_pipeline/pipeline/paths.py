"""Where a run reads and writes."""

from __future__ import annotations

from dataclasses import dataclass

from serving.releases import Release


@dataclass(frozen=True)
class RunPaths:
    """Where a run reads and writes, and what it follows.

    Attributes:
        data: Folder that meets the data contract.
        root: Everything a run writes: artifacts, metadata, releases, rejected rows, the report.
        released: The current release, with which a new ranker and new data are compared; None before the first.
        warm_start: Whether the encoder of that release is kept, and its ranker trained further.
        data_version: Stands for the data in the cache, where the folder cannot be looked at (a compiled spec).
        run_id: Another one in each run.
    """

    data: str
    root: str
    released: Release | None = None
    warm_start: bool = False
    data_version: str = ""
    run_id: str = ""

    @property
    def rejected(self) -> str:
        """Rows that broke the contract, of the newest run."""
        return f"{self.root}/rejected"
