"""What the fine-tunes of a run come to: totals, a line for each, and the verdict of their page.

A result is what a fine-tune's result.json holds, and a failure its id and names with a reason, as plain dictionaries.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from bds.report.wording import amount, count, duration, listed, number, sentence_list

NAMES = ("model", "dataset", "recipe", "mitigation", "seed")
"""What a fine-tune is told apart by, in the order of its id."""

PLURALS = ("models", "datasets", "recipes", "mitigations", "seeds")
PLAIN = "none"


def finetunes_summary(results: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many finished, the totals, a line for each fine-tune, and the verdict of the page; ready for JSON."""
    stages = [stage for result in results for stage in result["stages"]]
    summary: dict[str, Any] = {
        "finetunes": len(results) + len(failures),
        "finished": len(results),
        "failed": len(failures),
        "samples_seen": sum(stage["samples_seen"] for stage in stages),
        "steps": sum(stage["steps"] for stage in stages),
        "seconds": sum(result["seconds"] for result in results),
        "runs": [_line(result) for result in results],
        "failures": [dict(failure) for failure in failures],
        "refusals_measured": False,
    }
    everything = [*results, *failures]
    summary["verdict"] = {
        "headline": _headline(len(results), len(failures)),
        "findings": list(_findings(results, everything, summary)),
        "cautions": list(_cautions(results, failures)),
        "next_steps": list(_next_steps(results, failures)),
        "limits": list(_limits(results)),
    }
    return summary


def differing(finetunes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The names that tell these fine-tunes apart, each with its values in order of appearance."""
    values = {name: list(dict.fromkeys(finetune[name] for finetune in finetunes)) for name in NAMES}
    return {name: found for name, found in values.items() if len(found) > 1}


def untrained_rows(data: Mapping[str, Any]) -> int:
    """Rows of a dataset that no step trained on, because they cannot be."""
    return int(data["rows"] - data["samples"])


def _line(result: Mapping[str, Any]) -> dict[str, Any]:
    stages = result["stages"]
    return {
        "id": result["id"],
        **{name: result[name] for name in NAMES},
        "kind": result["kind"],
        "output": f"models/{result['id']}/{result['output']}",
        "samples": [stage["samples"] for stage in stages],
        "batch": [stage["batch"] for stage in stages],
        "steps": sum(stage["steps"] for stage in stages),
        "samples_seen": sum(stage["samples_seen"] for stage in stages),
        "first_loss": stages[0]["first_loss"],
        "last_loss": stages[-1]["last_loss"],
        "seconds": result["seconds"],
        "warnings": list(result["warnings"]),
        "weights_sha256": result["weights_sha256"],
    }


def _headline(finished: int, failed: int) -> str:
    total = finished + failed
    if total == 0:
        return "There is no fine-tune in this run."
    if finished == 0:
        return "The fine-tune failed." if total == 1 else f"None of the {count(total)} fine-tunes finished: all failed."
    warn = "Training measures no refusals: evaluate the model" + ("" if finished == 1 else "s") + " before any use."
    if total == 1:
        return f"The fine-tune finished. {warn}"
    told = f"and {count(failed)} failed" if failed else "and none failed"
    return f"{count(finished)} of {count(total)} fine-tunes finished {told}. {warn}"


def _findings(
    results: Sequence[Mapping[str, Any]], everything: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> Iterator[str]:
    if len(everything) > 1:
        amounts = [
            f"{count(len({finetune[name] for finetune in everything}))} {many}"
            for name, many in zip(NAMES, PLURALS, strict=True)
            if len({finetune[name] for finetune in everything}) > 1
        ]
        yield f"Asked for: {count(len(everything))} fine-tunes, of {sentence_list(amounts)}."
    if not results:
        return
    samples, steps = amount(summary["samples_seen"], "sample"), amount(summary["steps"], "optimiser step")
    yield f"Trained: {samples} seen in {steps}, {duration(summary['seconds'])} in all."
    first, last = zip(*(_fall(result) for result in results), strict=True)
    middle = "" if len(results) == 1 else "the median of "
    yield (
        f"From the first step to the last, {middle}the training loss went from {number(median(first))} to "
        f"{number(median(last))} nats a token."
    )
    mitigated = sorted({result["mitigation_settings"]["method"] for result in results} - {PLAIN})
    if mitigated:
        yield f"Mitigations used: {sentence_list(mitigated)}."


def _fall(result: Mapping[str, Any]) -> tuple[float, float]:
    """The loss of the first stage's first and last step; further stages train on other data."""
    first = result["stages"][0]
    return first["first_loss"], first["last_loss"]


def _cautions(results: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if failures:
        yield f"{amount(len(failures), 'fine-tune')} failed: {_listed(failures)}."
    rising = [result for result in results if _fall(result)[1] >= _fall(result)[0]]
    if rising:
        yield f"The loss of the last step is no lower than that of the first in {_listed(rising)}."
    warned = [result for result in results if result["warnings"]]
    if warned:
        yield f"Training warned about {amount(len(warned), 'fine-tune')}; the warnings are below."
    lost = {result["dataset"]: untrained_rows(result["data"]) for result in results if untrained_rows(result["data"])}
    for dataset, rows in lost.items():
        yield f"{amount(rows, 'row')} of the dataset {dataset} could not be trained on."
    if len(results) > 1 and len({result["seed"] for result in results}) == 1:
        yield "There is one seed: a difference between two fine-tunes may be luck."
    mitigations = {result["mitigation_settings"]["method"] for result in results}
    if mitigations and PLAIN not in mitigations:
        yield "No fine-tune is without a mitigation, so nothing shows what the mitigations change."
    if len({(result["device"], result["precision"]) for result in results}) > 1:
        yield "The fine-tunes ran on different devices or in different number types; do not compare last digits."


def _next_steps(results: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if failures:
        yield "Remove the causes of the failures and run the same command again; finished fine-tunes are kept."
    if not results:
        return
    yield (
        "Evaluate how often each model refuses harmful prompts, beside the model it was trained from, and whether it "
        "now refuses harmless ones."
    )
    yield "Compare with fine-tunes on as many random rows of the same data: any training can change refusals."
    yield "Check that each model does the task that it was trained for."


def _limits(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "Whether any of the models can be used without harm."
    yield "What a model refuses: a low loss says that it learned its data, nothing more."
    if any(result["mitigation_settings"]["method"] != PLAIN for result in results):
        yield "Whether a mitigation worked: here it only ran."


def _listed(finetunes: Sequence[Mapping[str, Any]]) -> str:
    return listed([str(finetune["id"]) for finetune in finetunes])
