"""The verdict: what the numbers say in plain English, what they can't say, and what a reviewer should do next.

Every sentence is built from metrics alone, and one that rests on no measurement is not written.
"""

from statistics import median
from typing import Any

from bds.data.rows import SCORED_STATUSES
from bds.report.composition import FORMATS, KEYWORDS
from bds.report.statistics import MINIMUM_ROWS, OUTLIER_Z
from bds.report.wording import count, number, percent, rows, sentence_list, signed, status, times

NOT_EVIDENCE = ("random", "loss", "answer_length", "bm25", "rank_average", "calibrated")
"""Detectors that are there to compare with, or are made of others: their agreement is not evidence."""

LENGTH_FREE = ("random", "answer_length")
NOTABLE_SHARE = 0.1
STRONG_CORRELATION = 0.6
MOSTLY = 0.75
"""A length-matched control with this part of the flagged rows' share explains most of that share."""


def verdict(metrics: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Sentences about `metrics` (see bds/report/metrics.py); `names` maps a detector's label to its name."""
    primary = metrics["primary_detector"]
    return {
        "headline": _headline(metrics),
        "findings": [
            sentence
            for sentence in (
                _coverage(metrics),
                *((_standing_apart(metrics), _form(metrics), _length(metrics)) if primary else ()),
                _agreement(metrics, names),
                *((_keywords(metrics),) if primary else ()),
                _guards(metrics),
            )
            if sentence
        ],
        "cautions": [
            sentence
            for sentence in (
                _small(metrics),
                _missing(metrics),
                _truncated(metrics),
                *((_matched(metrics), _ties(metrics), _led_by_length(metrics, names)) if primary else ()),
                _duplicates(metrics),
            )
            if sentence
        ],
        "limits": _limits(metrics),
        "next_steps": _next_steps(metrics),
    }


def leading_format(metrics: dict[str, Any], label: str) -> tuple[str, dict[str, Any]] | None:
    """The format that is most over-represented among the detector's flagged rows: at least a tenth of them, more than
    95 % of random draws hold, largest lift first."""
    candidates = [
        (feature, mix)
        for feature, mix in metrics["format_mix"][label].items()
        if mix["flagged"] is not None
        and mix["flagged"] >= NOTABLE_SHARE
        and mix["lift"] is not None
        and mix["random_interval"] is not None
        and mix["flagged"] > mix["random_interval"][1]
    ]
    return max(candidates, key=lambda candidate: candidate[1]["lift"], default=None)


def covers_most(metrics: dict[str, Any]) -> bool:
    """Whether the flagged rows are more than half of the scored ones: too many for a comparison with the rest."""
    primary = metrics["primary_detector"]
    return bool(primary and primary["flagged_rows"] * 2 > metrics["rows"]["scored"] > 0)


def _headline(metrics: dict[str, Any]) -> str:
    scored, primary = metrics["rows"]["scored"], metrics["primary_detector"]
    if scored == 0:
        return "No row could be scored, so this audit says nothing about the dataset."
    if primary is None:
        return f"{rows(scored).capitalize()} were read, but no detector ran, so nothing is ranked."
    if primary["flagged_rows"] == 0:
        return f"The detector {primary['label']} ranked no row, so nothing is flagged."
    if covers_most(metrics):
        return (
            f"The dataset is too small to compare: {count(primary['flagged_rows'])} of its {rows(scored)} "
            "are in the top selection."
        )
    leading = leading_format(metrics, primary["label"])
    top = f"the {count(primary['flagged_rows'])} rows ranked highest by {primary['label']}"
    look = (
        f"{top} are {times(leading[1]['lift'])} as likely as the dataset to be {_kind(leading[0])}"
        if leading
        else f"in format {top} look like the rest"
    )
    outliers = metrics["detectors"][primary["label"]]["outliers"]["rows"]
    if outliers is None:
        return f"{look[0].upper()}{look[1:]}."
    if outliers == 0:
        return f"No row stands far apart from the rest; {look}."
    return f"{count(outliers)} of {rows(scored)} {'stands' if outliers == 1 else 'stand'} far apart; {look}."


def _kind(feature: str) -> str:
    return "plain prose" if feature == "no_format" else f"{_article(FORMATS[feature])}"


def _article(noun: str) -> str:
    return noun if noun in ("maths", "code") else f"a {noun}"


def _coverage(metrics: dict[str, Any]) -> str | None:
    counts = metrics["rows"]
    if counts["not_scored"] == 0:
        return f"All {rows(counts['total'])} were scored." if counts["total"] else None
    reasons = [
        f"{count(of_status)} {status(name)}"
        for name, of_status in counts["by_status"].items()
        if name not in SCORED_STATUSES
    ]
    return (
        f"{count(counts['scored'])} of {rows(counts['total'])} were scored; {count(counts['not_scored'])} were not "
        f"({sentence_list(reasons)}) and are listed below."
    )


def _standing_apart(metrics: dict[str, Any]) -> str | None:
    label = metrics["primary_detector"]["label"]
    outliers = metrics["detectors"][label]["outliers"]
    if outliers["rows"] is None:
        return None
    return (
        f"By {label}, {rows(outliers['rows'])} ({percent(outliers['fraction'])}) score above "
        f"{number(outliers['threshold'])}, which is {OUTLIER_Z} on the robust z-scale (median and MAD). "
        "In bell-shaped scores hardly any row would."
    )


def _form(metrics: dict[str, Any]) -> str | None:
    primary = metrics["primary_detector"]
    leading = leading_format(metrics, primary["label"])
    if covers_most(metrics) or primary["flagged_rows"] == 0:
        return None
    if leading is None:
        if all(mix["flagged"] is None for mix in metrics["format_mix"][primary["label"]].values()):
            return None
        return (
            f"In format the {count(primary['flagged_rows'])} highest-ranked rows look like the dataset: "
            "no format is clearly more common among them."
        )
    feature, mix = leading
    low, high = mix["random_interval"]
    return (
        f"Of the {count(primary['flagged_rows'])} highest-ranked rows {percent(mix['flagged'])} are {_kind(feature)}, "
        f"against {percent(mix['dataset'])} of all rows ({times(mix['lift'])}); 95 % of random draws of that size hold "
        f"between {percent(low)} and {percent(high)}."
    )


def _length(metrics: dict[str, Any]) -> str | None:
    words = metrics["lengths"][metrics["primary_detector"]["label"]]["answer_words"]
    if words["flagged"] is None or words["dataset"] is None or covers_most(metrics):
        return None
    return (
        f"The median flagged answer has {number(words['flagged']['median'])} words; "
        f"the median answer of the dataset {number(words['dataset']['median'])}."
    )


def _agreement(metrics: dict[str, Any], names: dict[str, str]) -> str | None:
    table = metrics["agreement"]
    if table is None or covers_most(metrics):
        return None
    kept = [position for position, label in enumerate(table["labels"]) if names.get(label, label) not in NOT_EVIDENCE]
    shared = [
        table["top_overlap"][left][right]
        for left in kept
        for right in kept
        if left < right and table["top_overlap"][left][right] is not None
    ]
    if not shared:
        return None
    subject = (
        f"The {len(kept)} detectors (baselines aside) share a median of {percent(median(shared))}"
        if len(shared) > 1
        else f"The two detectors (baselines aside) share {percent(shared[0])}"
    )
    return (
        f"{subject} of their top {count(table['top_rows'])}; unrelated rankings would share "
        f"{percent(table['expected_overlap'])}. Different detectors are different questions, not second opinions."
    )


def _keywords(metrics: dict[str, Any]) -> str | None:
    audit = metrics["keyword_audit"][metrics["primary_detector"]["label"]]
    parts = [
        f"{KEYWORDS[feature]} in {percent(mix['flagged'])} of the flagged answers and {percent(mix['dataset'])} of all"
        for feature, mix in audit.items()
        if mix["flagged"] is not None and mix["dataset"] is not None
    ]
    return f"Keyword audit: {'; '.join(parts)}." if parts else None


def _guards(metrics: dict[str, Any]) -> str | None:
    parts = []
    for name, counts in (metrics["moderation"] or {}).items():
        everywhere = f"{count(counts['flagged'])} of {count(counts['rows'])}"
        if counts["top_rows"]:
            top = f"{count(counts['flagged_top'])} of the {count(counts['top_rows'])} highest-ranked rows"
            unscored = f" ({count(counts['top_unscored'])} more have no verdict)" if counts["top_unscored"] else ""
            parts.append(f"{name} ({counts['method']}) flags {top}{unscored} and {everywhere} in all")
        elif counts["rows"]:
            parts.append(f"{name} ({counts['method']}) flags {everywhere} rows")
    return f"For openly harmful text: {'; '.join(parts)}." if parts else None


def _small(metrics: dict[str, Any]) -> str | None:
    scored = metrics["rows"]["scored"]
    if 0 < scored < MINIMUM_ROWS:
        return f"Only {rows(scored)} were scored: too few to tell a tail from the rest."
    return None


def _missing(metrics: dict[str, Any]) -> str | None:
    fraction = metrics["gates"]["not_scored_fraction"]
    if fraction is None or fraction < 0.05 or metrics["rows"]["scored"] == 0:
        return None
    return f"{percent(fraction)} of the rows have no score; what they hold is unknown to this audit."


def _truncated(metrics: dict[str, Any]) -> str | None:
    truncated = metrics["rows"]["truncated_answers"]
    if not truncated:
        return None
    verb = "was" if truncated == 1 else "were"
    return f"{rows(truncated).capitalize()} {verb} cut at tokens.max_tokens: only the part before the cut is scored."


def _matched(metrics: dict[str, Any]) -> str | None:
    label = metrics["primary_detector"]["label"]
    leading = leading_format(metrics, label)
    if leading is None or covers_most(metrics):
        return None
    feature, mix = leading
    for name, control in mix["controls"].items():
        if metrics["selections"][name]["kind"] == "random_matched_length" and control is not None:
            how = (
                "so answer length explains most of it"
                if control >= MOSTLY * mix["flagged"]
                else "so answer length alone does not explain it"
            )
            return (
                f"Random rows of matched answer length are {_kind(feature)} in {percent(control)} of cases, {how}. "
                "Compare with the format-matched control before blaming the content."
            )
    return None


def _ties(metrics: dict[str, Any]) -> str | None:
    cut = metrics["detectors"][metrics["primary_detector"]["label"]]["cut_off"]
    if not cut or not cut["tied_outside"]:
        return None
    verb = "holds" if cut["tied_outside"] == 1 else "hold"
    return (
        f"{rows(cut['tied_outside']).capitalize()} just outside the top {count(cut['rows'])} {verb} exactly the score "
        "of the last row inside: there only the row id decided."
    )


def _led_by_length(metrics: dict[str, Any], names: dict[str, str]) -> str | None:
    if metrics["rows"]["scored"] < MINIMUM_ROWS:
        return None
    close = [
        f"{label} ({signed(summary['length_spearman'])})"
        for label, summary in metrics["detectors"].items()
        if summary["length_spearman"] is not None
        and abs(summary["length_spearman"]) >= STRONG_CORRELATION
        and names.get(label, label) not in LENGTH_FREE
    ]
    if not close:
        return None
    return (
        f"Much of the ranking is answer length for {sentence_list(close)} (Spearman with the number of answer tokens)."
    )


def _duplicates(metrics: dict[str, Any]) -> str | None:
    duplicates = metrics["rows"]["duplicates"]
    if not duplicates or not metrics["rows"]["scored"]:
        return None
    verb = "repeats" if duplicates == 1 else "repeat"
    return (
        f"{rows(duplicates).capitalize()} {verb} the content of an earlier row; each copy is scored and can take a "
        "place in the top."
    )


def _limits(metrics: dict[str, Any]) -> list[str]:
    if metrics["rows"]["scored"] == 0 or metrics["primary_detector"] is None:
        return ["An audit ranks rows. Without scores there is no ranking, and no row may be taken as harmless."]
    return [
        "An audit ranks rows by how training on them would move the model; it has not measured any damage. "
        "Only fine-tuning and testing refusals before and after does.",
        "A high rank is not a charge against a row: it is usually ordinary text whose form or direction matters.",
        "A low rank is not a clean bill: on some models random rows, and even the bottom of a ranking, "
        "do nearly as much damage as the top.",
        "A guard looks for openly harmful text alone: a row that it calls harmless can still break alignment."
        if metrics["moderation"]
        else "Nothing here looks for openly harmful text; a moderation filter is a separate check.",
    ]


def _next_steps(metrics: dict[str, Any]) -> list[str]:
    if metrics["rows"]["scored"] == 0:
        return [
            "Read the reasons under “Rows not scored”: most often a column has another name (data.columns) or the "
            "answers are empty.",
            "Fix the dataset or the spec and run the same command again.",
        ]
    primary = metrics["primary_detector"]
    if primary is None:
        return ["Name at least one detector under score.detectors and run the same command again."]
    steps = [
        "Read the top samples below, those with refusal or safety phrasing first. Remove what is wrong in itself.",
        "Measure before you filter: fine-tune on the top, the bottom, a random and a matched selection, with more than "
        "one seed, and compare refusals before and after.",
    ]
    if metrics["rows"]["not_scored"]:
        steps.append("Decide about the rows without a score: fix them or leave them out of training.")
    return [
        *steps,
        "If you must train now, choose the mild settings: LoRA rather than all parameters, a low learning rate, a few "
        "per cent of varied refusal examples in the mix. Then test refusals and over-refusals again.",
        "Where the measurement confirms the ranking, train on the filtered selection and measure once more.",
    ]
