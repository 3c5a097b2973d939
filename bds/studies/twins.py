"""Inputs that hold the same rows under several names, as the random draws of two audits of one dataset do."""

from collections.abc import Iterable

import polars as pl

from bds.runs.directory import RunDirectory
from bds.spec.study import StudySpec
from bds.studies.plan import Input, audit_folder, audit_of, selection_of

SELECTED_ROWS = "selections/rows.parquet"


def twins(spec: StudySpec, root: str, inputs: Iterable[Input]) -> dict[Input, Input]:
    """Each input whose rows are there, with the first that has the same rows in the same order. Its own, mostly.

    An input is left out where its audit has not finished.
    """
    run = RunDirectory(root)
    tables: dict[tuple[str, str], pl.DataFrame | None] = {}
    first: dict[tuple[object, ...], Input] = {}
    found = {}
    for given in inputs:
        audit = audit_of(given, spec)
        if audit is None:
            found[given] = given
            continue
        if audit not in tables:
            tables[audit] = _selected(run, f"{audit_folder(*audit)}/{SELECTED_ROWS}")
        table = tables[audit]
        if table is None:
            continue
        rows = table.filter(pl.col("selection") == selection_of(spec, given))["row_index"].to_list()
        mix = spec.selections[given.selection].mix
        found[given] = first.setdefault((given.dataset, tuple(rows), mix and mix.model_dump_json()), given)
    return found


def _selected(run: RunDirectory, name: str) -> pl.DataFrame | None:
    try:
        return run.read_table(name)
    except FileNotFoundError:
        return None
