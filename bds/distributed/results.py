"""From finished components to everything a reader gets: scores, selections in the input's own format, report inputs."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import polars as pl

from bds.data.anchors import AnchorSample
from bds.data.reader import extension_of
from bds.data.write import table_schema, write_records
from bds.distributed.finished_rows import FinishedComponents, PlannedRows
from bds.errors import BdsError
from bds.report import REPORT_FILES
from bds.report.archive import FACTS, SCORES, save_inputs
from bds.report.flagged import rows_to_explain
from bds.report.inputs import DetectorInfo, ReportInputs, SelectionInfo
from bds.runs.directory import RunDirectory
from bds.runs.table_stream import table_stream
from bds.scoring import columns
from bds.scoring.detectors import DETECTORS, DetectorContext, dataset_scores, row_scores, self_influence_scale
from bds.scoring.explanation import AnchorMatch, Explanation, TokenContribution
from bds.scoring.lexical import bm25_columns
from bds.scoring.passes import Passes
from bds.scoring.selection import Selection, default_selections, is_yes_no, select
from bds.scoring.stages import explain_rows
from bds.spec.models import AuditSpec, SelectionSpec

COMPONENTS_FILE = "components.parquet"
TOKEN_SHARES = "stages/explain/token_shares.json"
"""Kept beside the parts: other detectors show other rows, and explaining those may not take the model again."""
ANCHORS_SHOWN = 3
"""Matches of each anchor set in an explanation."""

_Result = TypeVar("_Result")


class Once(Protocol):
    def __call__(self, function: Callable[[], _Result]) -> _Result: ...


def write_results(
    run: RunDirectory,
    spec: AuditSpec,
    *,
    rows: PlannedRows,
    passes: Passes,
    context: DetectorContext,
    anchors: Mapping[str, Sequence[AnchorSample]],
    components: FinishedComponents,
    manifest: dict[str, Any],
    once: Once,
) -> None:
    """Writes components.parquet, scores.parquet, selections/ and what the report is made of.

    In memory are the scores, a few numbers a row, but neither the rows nor what there is of each anchor. Only bm25
    takes the text of the whole dataset at once.

    Args:
        once: runs a function where the model can be loaded; not called where TOKEN_SHARES are kept.
    """
    scores = _write_tables(run, rows, passes, context, anchors, components)
    selections = _select(spec, passes, scores, rows)
    paths = _write_selections(run, spec, selections, rows)
    detectors: list[DetectorInfo] = [
        {
            "label": detector.column,
            "name": detector.name,
            "formula": DETECTORS[detector.name].formula,
            "source": DETECTORS[detector.name].source,
        }
        for detector in passes.detectors
    ]
    info: dict[str, SelectionInfo] = {
        selection.name: {
            "kind": selection.kind,
            "detector": selection.detector,
            "count": selection.requested,
            "seed": entry.seed,
            "ties_at_cut_off": selection.ties_at_cut,
            "notes": list(selection.notes),
            "path": paths[selection.name],
        }
        for entry, selection in selections
    }
    frames = {selection.name: selection.rows for _, selection in selections}
    parts = spec.resources.parts_per_model
    shown = rows_to_explain(scores, detectors, frames, info)
    tokens = _token_shares(run, rows.table(shown), once, parts) if passes.collection.gradients else {}
    notes = _scale_notes(passes, scores)
    notes += _token_notes(tokens, shown, parts) if passes.collection.gradients else []
    inputs = ReportInputs(
        spec=spec.model_dump(mode="json"),
        manifest={**manifest, "warnings": [*manifest["warnings"], *notes]},  # type: ignore[typeddict-item]
        scores=scores,
        rows=rows.texts(shown),
        selections=frames,
        selection_info=info,
        explanations=_explain(tokens, components.rows(shown), context, list(anchors), shown),
        detectors=detectors,
    )
    save_inputs(run, inputs)


def _write_tables(
    run: RunDirectory,
    rows: PlannedRows,
    passes: Passes,
    context: DetectorContext,
    anchors: Mapping[str, Sequence[AnchorSample]],
    components: FinishedComponents,
) -> pl.DataFrame:
    """components.parquet, and scores.parquet, which it returns. Raises BdsError where rows are missing."""
    lexical = _bm25(rows, anchors) if passes.needs_text else None
    done = 0
    scored = []
    with table_stream(run, COMPONENTS_FILE) as write:
        for block in components.blocks():
            if lexical is not None:
                block = block.hstack(lexical.slice(done, block.height))
            write(block)
            scored.append(row_scores(block, passes.detectors, context))
            done += block.height
        if done != rows.count:
            raise BdsError(f"{done} rows came back of {rows.count}; this is a defect of bds, please report it")
    scores = dataset_scores(pl.concat(scored), passes.detectors, context)
    with table_stream(run, SCORES) as write:
        for block in scores.iter_slices():
            write(block)
    return scores


def _bm25(rows: PlannedRows, anchors: Mapping[str, Sequence[AnchorSample]]) -> pl.DataFrame:
    texts = [None if exchange is None else "\n".join(exchange) for _, exchange in rows.exchanges()]
    queries = {name: [f"{sample.prompt}\n{sample.answer}" for sample in samples] for name, samples in anchors.items()}
    return bm25_columns(texts, queries)


def _select(
    spec: AuditSpec, passes: Passes, scores: pl.DataFrame, rows: PlannedRows
) -> list[tuple[SelectionSpec, Selection]]:
    wanted = spec.select
    if wanted is None:
        primary = primary_detector(passes)
        wanted = default_selections(primary, int(scores[columns.score(primary)].is_not_null().sum()), spec.top)
    short = None
    if any(entry.drop_short_answers for entry in wanted):
        short = {index for index, exchange in rows.exchanges() if exchange is not None and is_yes_no(exchange[1])}
    refusals = spec.score.drop_refusals
    return [(entry, select(scores, entry, drop_refusals=refusals, short_answers=short)) for entry in wanted]


def primary_detector(passes: Passes) -> str:
    """The column that the default selections rank by: bidirectional gradients, else what comes nearest to them.

    On the tiny aligned model its top 100 broke refusals more reliably than any other detector's.
    """
    order = [
        "gradient_bidirectional",
        "larf",
        "self_influence_n",
        "representation_bidirectional",
        "gradient",
        "representation",
    ]
    by_name = {detector.name: detector.column for detector in passes.detectors}
    return next((by_name[name] for name in order if name in by_name), passes.detectors[0].column)


def _write_selections(
    run: RunDirectory, spec: AuditSpec, selections: Sequence[tuple[SelectionSpec, Selection]], rows: PlannedRows
) -> dict[str, str]:
    """Each selection as a dataset in the input's own container, rows in the selection's order."""
    extension, schema = extension_of(spec.data.path), table_schema(spec.data.path)
    paths = {}
    for _, selection in selections:
        path = f"selections/{selection.name}{extension}"
        with run.writing(path) as file:
            write_records(file, rows.records(selection.rows["row_index"]), extension, schema)
        paths[selection.name] = run.url_of(path)
    return paths


def delete_results(run: RunDirectory) -> None:
    """Deletes what `write_results` and the report after it wrote, so that nothing of another spec stays. The facts that
    make a run a finished one go first."""
    for name in [FACTS, *REPORT_FILES, *run.list("report"), *run.list("selections"), SCORES, COMPONENTS_FILE]:
        run.delete(name)


def _scale_notes(passes: Passes, scores: pl.DataFrame) -> list[str]:
    """What a reader must know of how scores came about."""
    notes = []
    for detector in passes.detectors:
        if detector.name == "self_influence_n":
            name, value = self_influence_scale(scores, detector)
            notes.append(f"{detector.column}: Self-Inf is divided by {value:.4g} ({name}) before the +1")
    return notes


def _token_shares(run: RunDirectory, table: pl.DataFrame, once: Once, parts: int) -> dict[int, list[tuple[str, float]]]:
    """Of the rows in the table by row_index; where shares are kept, those, whichever rows they are of."""
    try:
        kept = run.read_json(TOKEN_SHARES)
    except FileNotFoundError:
        # Processes that a model is spread over pass no forward-mode derivatives on, which the shares are made of.
        explained = table.height > 0 and parts == 1
        found = once(functools.partial(explain_rows, run.uri, table)) if explained else {}
        run.write_json(TOKEN_SHARES, {str(index): shares for index, shares in found.items()})
        return found
    return {int(index): [(text, share) for text, share in shares] for index, shares in kept.items()}


def _token_notes(tokens: Mapping[int, Sequence[tuple[str, float]]], shown: Sequence[int], parts: int) -> list[str]:
    """No tokens at all of a model in one process is one whose shares cannot be taken, and nothing to mend."""
    if not tokens and parts > 1:
        return [f"samples shown have no token colours: the model is spread over {parts} processes, which take none"]
    without = sum(index not in tokens for index in shown)
    if not tokens or not without:
        return []
    return [
        f"{without} of {len(shown)} samples shown have no token colours: detectors or selections changed after the "
        f"model had run; to add them, delete {TOKEN_SHARES} in the run directory and run the same command again, which "
        "loads the model"
    ]


def _explain(
    tokens: Mapping[int, Sequence[tuple[str, float]]],
    components: Iterable[dict[str, Any]],
    context: DetectorContext,
    sets: Sequence[str],
    shown: Sequence[int],
) -> dict[int, Explanation]:
    matches = _anchor_matches(components, context, sets)
    return {
        index: Explanation(
            index,
            tuple(TokenContribution(text, share) for text, share in tokens.get(index, [])),
            matches.get(index, ()),
        )
        for index in shown
    }


def _anchor_matches(
    components: Iterable[dict[str, Any]], context: DetectorContext, sets: Sequence[str]
) -> dict[int, tuple[AnchorMatch, ...]]:
    """The strongest anchors of each set: by gradient cosine where single anchors have one, else by hidden state."""
    found: dict[int, list[AnchorMatch]] = {}
    for row in components:
        for name in sets:
            norm = row.get(columns.SQUARED_GRADIENT_NORM)
            values = row.get(columns.anchor_dots(name))
            if values is not None and norm:
                values = [value / norm**0.5 for value in values]
            else:
                values = row.get(columns.cosines(name, context.representation_layer)) or []
            strongest = sorted(enumerate(values), key=lambda pair: (-pair[1], pair[0]))[:ANCHORS_SHOWN]
            found.setdefault(row["row_index"], []).extend(AnchorMatch(name, *pair) for pair in strongest)
    return {index: tuple(matches) for index, matches in found.items()}
