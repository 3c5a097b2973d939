"""The page of a run's fine-tunes: their results gathered into plain values, then rendered by one Jinja template."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bds.report import wording
from bds.report.finetunes_figures import Panels, arrange, loss_pictures
from bds.report.finetunes_summary import PLAIN, differing
from bds.report.page import Tile
from bds.report.rendering import page_template
from bds.spec.finetune import AdapterSpec, RecipeSpec
from bds.spec.mitigations import MITIGATION_BLOCKS

TEMPLATE = "finetunes.html.j2"
PANELS_SHOWN = 24
"""Panels before the rest is folded."""

LONGEST_VALUE = 400
"""Characters of a setting or fact that the page shows."""

_BLOCKS = {block.model_fields["method"].default: block for block in MITIGATION_BLOCKS}


@dataclass(frozen=True)
class Used:
    """Something that several fine-tunes have in common, with who they are."""

    name: str
    note: str
    facts: list[tuple[str, str]]
    finetunes: list[str]


@dataclass(frozen=True)
class Warned:
    text: str
    finetunes: list[str]


def render_finetunes(
    name: str,
    results: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    summary: Mapping[str, Any],
) -> str:
    """The report as one HTML document that loads nothing and runs no script.

    Args:
        name: of the run.
        curves: `curve_lines` by the id of the fine-tune.
        summary: of `finetunes_summary`.
    """
    arranged = arrange(results, curves)
    pictures = loss_pictures(arranged.panels, large=len(arranged.panels) == 1) if arranged.panels else []
    titled = [(panel.title, picture) for panel, picture in zip(arranged.panels, pictures, strict=True)]
    return page_template(TEMPLATE).render(
        name=name,
        what=_what([*results, *failures]),
        summary=summary,
        verdict=summary["verdict"],
        tiles=tiles(summary),
        arranged=arranged,
        explained=_explained(arranged),
        only_picture=pictures[0] if len(pictures) == 1 else None,
        shown=titled[:PANELS_SHOWN],
        folded=titled[PANELS_SHOWN:],
        results=results,
        folder=lambda result: quote(f"models/{result['id']}/"),
        any_stages=any(len(result["stages"]) > 1 for result in results),
        failures=failures,
        warnings=_warnings(results),
        datasets=_used(results, lambda result: result["dataset"], _dataset_facts),
        models=_used(results, lambda result: result["model"], _model_facts),
        recipes=_recipes(results),
        mitigations=_used(results, lambda result: result["mitigation"], _mitigation_facts, _mitigation_note),
        outcomes=[
            (result["id"], _pairs(result["mitigation_facts"])) for result in results if result["mitigation_facts"]
        ],
        places=_used(results, _place, lambda result: list(result["versions"].items())),
    )


def tiles(summary: Mapping[str, Any]) -> list[Tile]:
    """The headline numbers."""
    failed = summary["failed"]
    found = [
        Tile(
            f"{wording.count(summary['finished'])} of {wording.count(summary['finetunes'])}",
            "fine-tunes finished",
            f"{wording.count(failed)} failed" if failed else "none failed",
        )
    ]
    if not summary["finished"]:
        return found
    runs = summary["runs"]
    lengths = [run["seconds"] for run in runs]
    found.append(
        Tile(
            wording.count(summary["samples_seen"]), "samples seen", "every epoch counts" + _of_all(runs, "samples_seen")
        )
    )
    found.append(Tile(wording.count(summary["steps"]), "optimiser steps", "of all workers together"))
    span = f", {wording.duration(min(lengths))} to {wording.duration(max(lengths))} each" if len(runs) > 1 else ""
    found.append(Tile(wording.duration(summary["seconds"]), "of training", f"without waiting{span}"))
    return found


def _of_all(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    """The range of an amount over several fine-tunes."""
    amounts = sorted({run[name] for run in runs})
    if len(runs) == 1:
        return ""
    low, high = wording.count(amounts[0]), wording.count(amounts[-1])
    return f"; {low} each" if len(amounts) == 1 else f"; {low} to {high} each"


def _what(finetunes: Sequence[Mapping[str, Any]]) -> str:
    """The names that all fine-tunes share."""
    if not finetunes:
        return ""
    varying = differing(finetunes)
    names = [(name, finetunes[0][name]) for name in ("model", "dataset", "recipe", "mitigation", "seed")]
    shared = [f"{name} {value}" for name, value in names if name not in varying]
    return f"All with {', '.join(shared)}" if shared and len(finetunes) > 1 else ", ".join(shared)


def _explained(arranged: Panels) -> str:
    """What panels, lines and marks stand for, in one paragraph; empty where there is one plain line."""
    sentences = []
    if arranged.by:
        sentences.append(f"one panel for each {' and '.join(arranged.by)}, with the same axes")
    if arranged.coloured:
        sentences.append(f"one colour for each {arranged.coloured}")
    if arranged.seeds > 1:
        sentences.append("one line for each seed")
    drawn = [line.lines for panel in arranged.panels for line in panel.lines]
    if any(part["kind"] == "alignment" for lines in drawn for part in lines):
        sentences.append("crosses are steps on a mitigation's refusals")
    if any(len({part["stage"] for part in lines}) > 1 for lines in drawn):
        sentences.append("a dotted vertical line ends a stage")
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _warnings(results: Sequence[Mapping[str, Any]]) -> list[Warned]:
    found: dict[str, list[str]] = {}
    for result in results:
        for warning in result["warnings"]:
            found.setdefault(warning, []).append(result["id"])
    return [Warned(text, ids) for text, ids in found.items()]


def _used(
    results: Iterable[Mapping[str, Any]],
    name: Callable[[Mapping[str, Any]], str],
    facts: Callable[[Mapping[str, Any]], list[tuple[str, str]]],
    note: Callable[[Mapping[str, Any]], str] = lambda result: "",
) -> list[Used]:
    """What each name stands for; a name that stands for two things is listed twice."""
    found: dict[tuple[str, str], Used] = {}
    for result in results:
        told = facts(result)
        key = (name(result), json.dumps(told))
        found.setdefault(key, Used(name(result), note(result), told, [])).finetunes.append(result["id"])
    return list(found.values())


def _dataset_facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = result["data"]
    statuses = sorted(data["statuses"].items(), key=lambda item: (-item[1], item[0]))
    facts = [
        ("Source", data["path"]),
        ("Rows", wording.count(data["rows"])),
        ("By status", ", ".join(f"{wording.count(rows)} {wording.status(name)}" for name, rows in statuses)),
        ("Trained on", wording.count(data["samples"])),
        ("SHA-256", data["hash"]),
    ]
    mix = data["mix"]
    if mix is not None:
        amounts = f"{wording.count(mix['samples'])} samples among {wording.count(mix['benign'])} rows"
        facts.insert(4, ("Mixture", f"{amounts} of {mix['into']}, a share of {wording.percent(mix['share'])}"))
    return facts


def _model_facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("Source", result["base_model"]),
        ("Revision", result["base_revision"]),
        ("Adapter", result["base_adapter"]),
    ]
    return [(name, value) for name, value in facts if value is not None]


def _recipes(results: Sequence[Mapping[str, Any]]) -> list[Used]:
    """The recipes as trained: a mitigation that changes settings makes a variant of its own."""
    return _used(results, lambda result: result["recipe"], _recipe_facts, _recipe_source)


def _recipe_source(result: Mapping[str, Any]) -> str:
    return str(result["recipe_settings"]["source"])


def _recipe_facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings = _ordered(result["recipe_settings"], list(RecipeSpec.model_fields))
    del settings["source"]
    lora = _ordered(settings.pop("lora"), list(AdapterSpec.model_fields))
    if settings["parameters"] == "lora":
        settings |= {f"lora.{name}": value for name, value in lora.items()}
    if settings["schedule"] != "epoch_decay":
        del settings["epoch_decay"]
    published = settings.pop("samples")
    told = {} if published is None else {"published for": f"{wording.count(published)} samples"}
    return _pairs({**settings, "trained in": result["precision"], **told})


def _mitigation_facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    block = _BLOCKS[result["mitigation_settings"]["method"]]
    return _pairs(_ordered(result["mitigation_settings"], list(block.model_fields)))


def _mitigation_note(result: Mapping[str, Any]) -> str:
    method = result["mitigation_settings"]["method"]
    block = _BLOCKS[method]
    what = "Plain fine-tuning." if method == PLAIN else " ".join(str(block.__doc__).split())
    return f"{what} Known of it: {block.known} ({block.source})."


def _place(result: Mapping[str, Any]) -> str:
    workers = "1 worker" if result["workers"] == 1 else f"{wording.count(result['workers'])} workers"
    return f"{workers} ({result['sharding']}) on {result['device']}"


def _ordered(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The settings in the order of the spec: finetunes.json sorts them."""
    known = {name: settings[name] for name in names if name in settings}
    return known | {name: value for name, value in settings.items() if name not in known}


def _pairs(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, _shown(value)) for name, value in settings.items()]


def _shown(value: Any) -> str:
    """As the spec file would say it; a long list or table stays in result.json."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= LONGEST_VALUE:
        return text
    if isinstance(value, list | dict):
        return f"{wording.count(len(value))} entries, in result.json"
    return text[:LONGEST_VALUE] + "…"
