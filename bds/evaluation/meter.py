"""How far a stage of an evaluation has come."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bds.runs.progress import duration


class RowMeter:
    """Counts the rows of one stage over this attempt alone, and the faults on the way."""

    def __init__(self, label: str, unit: str, total: int) -> None:
        self.label = label
        self.total = total
        self.completed = 0
        self.faults: Counter[str] = Counter()
        self._unit = unit
        self._failed = 0
        self._first: float | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        if self._first is None:
            # What a server takes to start belongs to no row.
            self._first = time.monotonic() - row["seconds"]
        self.completed += 1
        self._failed += row["status"] == "failed"
        self.faults.update(row["faults"])

    def line(self) -> str:
        parts = [f"{self.completed:,}/{self.total:,} {self._unit}"]
        if self._first is not None:
            rate = self.completed / max(time.monotonic() - self._first, 1e-9)
            parts.append(f"{rate:.3g}/s")
        if self.faults:
            parts.append(f"{self.faults.total():,} faults tried again")
        if self._failed:
            parts.append(f"{self._failed:,} failed")
        if self.completed == self.total:
            parts.append("done")
        elif self._first is None:
            parts.append("starting the server")
        else:
            parts.append(f"{duration((self.total - self.completed) / rate)} left")
        return ", ".join(parts)
