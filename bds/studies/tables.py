"""The tables of a study as files: one row a measure of a cell, and one a contrast."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

CELLS = "cells.parquet"
CONTRASTS = "contrasts.parquet"

_CELL = {
    "cell": pl.String,
    "target": pl.String,
    "dataset": pl.String,
    "selection": pl.String,
    "kind": pl.String,
    "scorer": pl.String,
    "recipe": pl.String,
    "mitigation": pl.String,
    "then": pl.String,
    "samples": pl.Int64,
    "steps": pl.Int64,
    "final_loss": pl.Float64,
    "suite": pl.String,
    "judge": pl.String,
    "metric": pl.String,
    "headline": pl.Boolean,
    "seeds": pl.Int64,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "method": pl.String,
    "unscored": pl.Int64,
}
_CONTRAST = {
    "cell": pl.String,
    "with": pl.String,
    "other": pl.String,
    "suite": pl.String,
    "judge": pl.String,
    "metric": pl.String,
    "family": pl.String,
    "prompts": pl.Int64,
    "seeds": pl.Int64,
    "value_a": pl.Float64,
    "value_b": pl.Float64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "method": pl.String,
    "p": pl.Float64,
    "p_adjusted": pl.Float64,
    "adjustment": pl.String,
    "significant": pl.Boolean,
    "worst_low": pl.Float64,
    "worst_high": pl.Float64,
}


def cells_table(cells: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """One row a measure of a cell; a cell without measures has none."""
    rows = [{**cell, "cell": cell["id"], **measured} for cell in cells for measured in cell["measured"]]
    return _table(rows, _CELL)


def contrasts_table(contrasts: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """One row a contrast."""
    return _table(contrasts, _CONTRAST)


def _table(rows: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=dict(schema))
