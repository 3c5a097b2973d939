"""What the judges of a moderation say of an audit's rows: a chip on each card, and how many of the top they flag."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from bds.report.inputs import Moderation
from bds.report.wording import status


@dataclass(frozen=True)
class GuardChip:
    judge: str
    says: str
    flagged: bool


def guard_chips(moderation: Moderation | None, rows: Sequence[int]) -> dict[int, list[GuardChip]]:
    """By row_index, what each judge says of these rows, in the judges' order."""
    if moderation is None:
        return {}
    found: dict[int, list[GuardChip]] = {row: [] for row in rows}
    wanted = moderation.verdicts.filter(pl.col("row_index").is_in(list(rows)))
    for judge in moderation.judges:
        for verdict in wanted.filter(pl.col("judge") == judge["name"]).iter_rows(named=True):
            chip = GuardChip(judge["name"], _says(verdict), bool(verdict["flagged"]))
            found[verdict["row_index"]].append(chip)
    return found


def guard_counts(moderation: Moderation | None, top: Sequence[int]) -> dict[str, dict[str, Any]] | None:
    """By name of each judge that tells harm, how much it flags of all rows and of the `top` ones.

    Rows without its verdict are counted apart and are no part of either. None where nothing was moderated.
    """
    if moderation is None:
        return None
    counts = {}
    for judge in moderation.judges:
        if not judge["tells_harm"]:
            continue
        own = moderation.verdicts.filter(pl.col("judge") == judge["name"])
        highest = own.filter(pl.col("row_index").is_in(list(top)))
        counts[judge["name"]] = {
            "method": judge["method"],
            "flagged": int(own["flagged"].sum() or 0),
            "rows": len(own["flagged"].drop_nulls()),
            "unscored": own["flagged"].null_count(),
            "flagged_top": int(highest["flagged"].sum() or 0),
            "top_rows": len(highest["flagged"].drop_nulls()),
            "top_unscored": highest["flagged"].null_count(),
        }
    return counts


def _says(verdict: dict[str, Any]) -> str:
    if verdict["flagged"] is not None:
        return "harmful" if verdict["flagged"] else "harmless"
    if verdict["refused"] is not None:
        return "refuses" if verdict["refused"] else "no refusal"
    return f"no verdict ({status(verdict['status'])})"
