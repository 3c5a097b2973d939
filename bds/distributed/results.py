"""From finished components to everything a reader gets: scores, selections in the input's own format, report inputs."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import polars as pl

from bds.data.anchors import AnchorSample
from bds.data.rows import Row
from bds.data.write import encode_like
from bds.report import REPORT_FILES
from bds.report.archive import FACTS, SCORES, save_inputs
from bds.report.flagged import rows_to_explain
from bds.report.inputs import DetectorInfo, ReportInputs, SelectionInfo
from bds.runs.directory import RunDirectory
from bds.runs.plan import Plan, read_shard, rows_of
from bds.scoring import columns
from bds.scoring.detectors import DETECTORS, DetectorContext, score_table, self_influence_scale
from bds.scoring.explanation import AnchorMatch, Explanation, TokenContribution
from bds.scoring.lexical import bm25_columns
from bds.scoring.passes import Passes
from bds.scoring.selection import Selection, default_selections, select
from bds.scoring.shard import last_exchange
from bds.scoring.stages import explain_rows
from bds.spec.models import AuditSpec, SelectionSpec

COMPONENTS = "components.parquet"
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
    plan: Plan,
    passes: Passes,
    context: DetectorContext,
    anchors: Mapping[str, Sequence[AnchorSample]],
    components: pl.DataFrame,
    manifest: dict[str, Any],
    once: Once,
) -> None:
    """Writes components.parquet, scores.parquet, selections/ and what the report is made of.

    Args:
        components: the whole dataset in row order.
        once: runs a function where the model can be loaded; not called where TOKEN_SHARES are kept.
    """
    rows = _Rows(run, plan)
    if passes.needs_text:
        components = _with_bm25(components, rows, anchors)
    run.write_table(COMPONENTS, components)
    table = score_table(components, passes.detectors, context)
    scores = table.drop([name for name, kind in table.schema.items() if isinstance(kind, pl.List)])
    run.write_table(SCORES, scores)
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
    notes = _scale_notes(passes, components)
    notes += _token_notes(tokens, shown, parts) if passes.collection.gradients else []
    inputs = ReportInputs(
        spec=spec.model_dump(mode="json"),
        manifest={**manifest, "warnings": [*manifest["warnings"], *notes]},  # type: ignore[typeddict-item]
        scores=scores,
        rows=rows.texts(shown),
        selections=frames,
        selection_info=info,
        explanations=_explain(tokens, components, context, anchors, shown),
        detectors=detectors,
    )
    save_inputs(run, inputs)


class _Rows:
    """The planned rows, read shard by shard when they are asked for."""

    def __init__(self, run: RunDirectory, plan: Plan) -> None:
        self._run, self._plan = run, plan

    def table(self, wanted: Sequence[int]) -> pl.DataFrame:
        """The planned rows of these row indices, in the dataset's order."""
        chosen = set(wanted)
        parts = []
        for shard in self._plan.shards:
            inside = [index for index in range(shard.first_row, shard.first_row + shard.rows) if index in chosen]
            if inside:
                parts.append(read_shard(self._run, shard).filter(pl.col("row_index").is_in(inside)))
        return pl.concat(parts) if parts else read_shard(self._run, self._plan.shards[0]).clear()

    def by_index(self, wanted: Sequence[int]) -> dict[int, Row]:
        return {row.row_index: row for row in rows_of(self.table(wanted))}

    def texts(self, wanted: Sequence[int]) -> pl.DataFrame:
        """row_index, prompt and answer of the last exchange."""
        found = [
            (row.row_index, *last_exchange(row.conversation))
            for row in self.by_index(wanted).values()
            if row.conversation is not None
        ]
        return pl.DataFrame(
            found, schema={"row_index": pl.Int64, "prompt": pl.String, "answer": pl.String}, orient="row"
        )


def _with_bm25(components: pl.DataFrame, rows: _Rows, anchors: Mapping[str, Sequence[AnchorSample]]) -> pl.DataFrame:
    texts = {
        index: f"{prompt}\n{answer}"
        for index, prompt, answer in rows.texts(components["row_index"].to_list()).iter_rows()
    }
    queries = {name: [f"{sample.prompt}\n{sample.answer}" for sample in samples] for name, samples in anchors.items()}
    return pl.concat(
        [components, bm25_columns([texts.get(index) for index in components["row_index"]], queries)], how="horizontal"
    )


def _select(
    spec: AuditSpec, passes: Passes, scores: pl.DataFrame, rows: _Rows
) -> list[tuple[SelectionSpec, Selection]]:
    wanted = spec.select
    if wanted is None:
        primary = primary_detector(passes)
        wanted = default_selections(primary, int(scores[columns.score(primary)].is_not_null().sum()), spec.top)
    answers = None
    if any(entry.drop_short_answers for entry in wanted):
        answers = {index: answer for index, _, answer in rows.texts(scores["row_index"].to_list()).iter_rows()}
    return [(entry, select(scores, entry, drop_refusals=spec.score.drop_refusals, answers=answers)) for entry in wanted]


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
    run: RunDirectory, spec: AuditSpec, selections: Sequence[tuple[SelectionSpec, Selection]], rows: _Rows
) -> dict[str, str]:
    """Each selection as a dataset in the input's own container, rows in the selection's order."""
    paths = {}
    for _, selection in selections:
        chosen = selection.rows["row_index"].to_list()
        records = rows.by_index(chosen)
        extension, content = encode_like([records[index].record for index in chosen], spec.data.path)
        path = f"selections/{selection.name}{extension}"
        run.write_bytes(path, content)
        paths[selection.name] = run.url_of(path)
    return paths


def delete_results(run: RunDirectory) -> None:
    """Deletes what `write_results` and the report after it wrote, so that nothing of another spec stays. The facts that
    make a run a finished one go first."""
    for name in [FACTS, *REPORT_FILES, *run.list("report"), *run.list("selections"), SCORES, COMPONENTS]:
        run.delete(name)


def _scale_notes(passes: Passes, components: pl.DataFrame) -> list[str]:
    """What a reader must know of how scores came about."""
    notes = []
    for detector in passes.detectors:
        if detector.name == "self_influence_n":
            name, value = self_influence_scale(components, detector)
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
    components: pl.DataFrame,
    context: DetectorContext,
    anchors: Mapping[str, Sequence[AnchorSample]],
    shown: Sequence[int],
) -> dict[int, Explanation]:
    matches = _anchor_matches(components.filter(pl.col("row_index").is_in(list(shown))), context, list(anchors))
    return {
        index: Explanation(
            index,
            tuple(TokenContribution(text, share) for text, share in tokens.get(index, [])),
            matches.get(index, ()),
        )
        for index in shown
    }


def _anchor_matches(
    components: pl.DataFrame, context: DetectorContext, sets: Sequence[str]
) -> dict[int, tuple[AnchorMatch, ...]]:
    """The strongest anchors of each set: by gradient cosine where single anchors have one, else by hidden state."""
    found: dict[int, list[AnchorMatch]] = {}
    for row in components.iter_rows(named=True):
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
