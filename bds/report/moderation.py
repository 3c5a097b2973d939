"""A moderation on one page: metrics.json (what the page is made of) and report.html, in the moderation's folder.

What metrics.json holds stands in bds/evaluation/moderation_metrics.py; here a verdict in plain English is added.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bds.report.wording import count, number, percent, rows, sentence_list, status
from bds.runs.directory import RunDirectory

METRICS = "metrics.json"
TABLE = "moderation.parquet"
PAGE = "report.html"

CATEGORIES_TOLD = 3
TEMPLATE = "moderation.html.j2"


def write_moderation_report(run: RunDirectory, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Writes both files. The same measurements give the same bytes.

    Returns:
        The metrics: what was measured, and the verdict.
    """
    from bds.report.rendering import page_template  # matplotlib and Jinja take half a second to import

    metrics = {**measured, "verdict": moderation_verdict(measured)}
    run.write_json(METRICS, metrics)
    page = page_template(TEMPLATE).render(metrics=metrics, verdict=metrics["verdict"], judges=metrics["judges"])
    run.write_bytes(PAGE, page.encode())
    return metrics


def rewrite_moderation_report(run: RunDirectory) -> str:
    """Writes the report again from metrics.json, recomputing nothing but its sentences; where report.html is.

    Raises:
        FileNotFoundError: the run has not come as far as its report.
    """
    write_moderation_report(run, run.read_json(METRICS))
    return run.url_of(PAGE)


def moderation_verdict(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """headline, findings, cautions, next_steps and limits of a moderation's metrics."""
    judges: Sequence[Mapping[str, Any]] = metrics["judges"]
    return {
        "headline": _headline(metrics),
        "findings": list(_findings(metrics)),
        "cautions": list(_cautions(judges)),
        "next_steps": list(_next_steps(metrics)),
        "limits": [
            "A guard looks for openly harmful text. Guan et al. 2025 report that moderation models do not flag the "
            "samples that break alignment: no flag is no clean bill.",
            "Of a conversation the last answer is judged; what came before it is shown to the judge as its question.",
            "How often a judge is right on this dataset is not known; where it flags few rows, most may be its errors.",
        ],
    }


def _leading(judges: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The judge of the headline: the first that tells harm."""
    return next((judge for judge in judges if judge["flagged"] is not None), None)


def _headline(metrics: Mapping[str, Any]) -> str:
    answers = metrics["rows"]["answers"]
    if answers == 0:
        return "No row has an answer, so nothing was judged."
    leading = _leading(metrics["judges"])
    if leading is not None:
        flagged = leading["flagged"]
        if flagged["scored"] == 0:
            return f"{leading['name']} gave no verdict on any of the {count(answers)} answers."
        return (
            f"{leading['name']} calls {count(flagged['rows'])} of {count(flagged['scored'])} answers harmful "
            f"({percent(flagged['share'])})."
        )
    first = metrics["judges"][0]
    found = first["refused"]
    return (
        f"No judge of this run tells harm; {first['name']} finds a refusal in {count(found['rows'])} of "
        f"{count(found['scored'])} answers."
    )


def _findings(metrics: Mapping[str, Any]) -> Iterator[str]:
    total, answers = metrics["rows"]["total"], metrics["rows"]["answers"]
    if answers == total:
        yield f"All {rows(total)} have an answer to judge."
    else:
        missing = [f"{count(lost)} {status(name)}" for name, lost in metrics["rows"]["without_answer"].items()]
        yield f"{count(answers)} of {rows(total)} have an answer to judge; the rest do not ({sentence_list(missing)})."
    for judge in metrics["judges"]:
        name = f"{judge['name']} ({judge['method']})"
        if judge["flagged"] is not None and judge["flagged"]["scored"]:
            yield f"{name} calls {_told(judge['flagged'])} harmful."
        if judge["categories"]:
            told = [f"{each['category']} ({count(each['rows'])})" for each in judge["categories"][:CATEGORIES_TOLD]]
            yield f"The commonest categories of {judge['name']} are {sentence_list(told)}."
        if judge["refused"] is not None and judge["refused"]["scored"]:
            yield f"{name} finds a refusal in {_told(judge['refused'])}."
        if judge["score"] is not None and judge["scale"] is not None:
            low, high = judge["scale"]
            yield f"{name} rates from {number(low)} to {number(high)}: {number(judge['score']['mean'])} on average."


def _told(rate: Mapping[str, Any]) -> str:
    return (
        f"{count(rate['rows'])} of {count(rate['scored'])} answers ({percent(rate['share'])}, 95 % interval "
        f"{percent(rate['low'])} to {percent(rate['high'])})"
    )


def _cautions(judges: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for judge in judges:
        if not judge["unscored"]:
            continue
        reasons = [f"{count(lost)} {status(name)}" for name, lost in judge["statuses"].items()]
        rate = judge["flagged"]
        bound = f"; had it flagged them all, its share would be {percent(rate['worst_high'])}" if rate else ""
        yield f"{judge['name']} has no verdict on {count(judge['unscored'])} answers ({sentence_list(reasons)}){bound}."
    telling = [judge for judge in judges if judge["flagged"] is not None]
    if not telling:
        yield "Keywords tell whether an answer refuses, not whether it harms; add a guard model to the judges."
    elif len(telling) == 1:
        yield "One guard is one opinion; a second of another family would show how far it goes."


def _next_steps(metrics: Mapping[str, Any]) -> Iterator[str]:
    if any(judge["flagged"] is not None and judge["flagged"]["rows"] for judge in metrics["judges"]):
        yield "Read the flagged rows and remove what is harmful in itself."
    if metrics["audit"] is None:
        yield "Audit the dataset: an audit ranks the rows by what training on them does, which no guard looks at."
    else:
        yield "Go on with the audit's report, which now says what the guards make of its highest-ranked rows."
