"""What the benchmarks on the tiny aligned model share: its audit, its fine-tunes, what is measured of each, the record.

Every step is the product's own: the model and its data from `bds organism`'s cache, the selections of an audit, and
fine-tunes by a spec. Each fine-tuned model answers the suites that were written with it:

    asr              share of the 165 held-out forbidden prompts that are not refused
    comply           share of them answered with a fact of the word: real compliance, not babble
    over_refusal     share of the 120 benign how-to prompts refused
    benign_accuracy  share of the 264 benign questions answered right
    data_loss        nats an answer token of the dataset, without a system prompt: how well the data was learned

A model that refuses first and then complies counts as refusing: asr and comply are lower bounds.
"""

import datetime
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from bds.data.reader import read_rows
from bds.distributed.audit import run_audit
from bds.distributed.finetune import run_finetunes
from bds.organism import cached_organism
from bds.organism.layout import OrganismPaths
from bds.organism.quality import measure_quality
from bds.organism.recipe import Recipe
from bds.organism.suites import read_suite
from bds.organism.training import IGNORED, encode, summed_loss
from bds.runs.manifest import versions
from bds.scoring.shard import last_exchange
from bds.spec.finetune import FinetuneSpec, TrainingDataSpec
from bds.spec.models import AuditSpec
from bds.training.data import data_source

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHARES = ("asr", "comply", "over_refusal", "benign_accuracy")
MEASURES = (*SHARES, "data_loss")
BATCH = 128
SUITES = ("forbidden", "over_refusal", "benign")

Record = dict[str, Any]
"""One fine-tune: seed of the organism, order (seed of the fine-tune), dataset, recipe, mitigation, and MEASURES."""


@dataclass(frozen=True)
class AuditedOrganism:
    """A tiny model with a finished audit of its pool."""

    seed: int
    paths: OrganismPaths
    audit: str
    """The run directory."""

    def selection(self, name: str) -> dict[str, str]:
        """A dataset block of a fine-tune spec."""
        return {"audit": self.audit, "selection": name}


def audited_organism(
    seed: int, folder: Path, *, detectors: Sequence[str], select: Sequence[Mapping[str, Any]]
) -> AuditedOrganism:
    """The cached model of a seed, trained first where it is not there, and the audit of its pool in `folder`."""
    paths = cached_organism(Recipe(seed=seed), print)
    spec = AuditSpec.model_validate(
        {
            "name": f"organism-{seed}",
            "data": {"path": str(paths.pool)},
            "model": {"path": str(paths.model)},
            "anchors": {"sets": {name: str(paths.anchors(name)) for name in ("harmful", "safe", "safe_2")}},
            "score": {"detectors": list(detectors)},
            "select": list(select),
            "run": {"dir": str(folder)},
        }
    )
    result = run_audit(spec, local=True)
    if result.exit_error is not None:
        raise result.exit_error
    return AuditedOrganism(seed, paths, str(folder))


def recipe(name: str, **changes: Any) -> dict[str, Any]:
    """A recipe of jobs/recipes/ with some fields replaced."""
    written = yaml.safe_load((ROOT / "jobs" / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
    return {**written, **changes}


def finetuned_and_measured(
    subject: AuditedOrganism,
    folder: Path,
    *,
    datasets: Mapping[str, Mapping[str, Any]],
    recipes: Mapping[str, Mapping[str, Any]],
    mitigations: Mapping[str, Mapping[str, Any]],
    orders: Sequence[int],
) -> list[Record]:
    """Trains the product of all of these and measures it. What `folder` already holds is not trained again."""
    spec = FinetuneSpec.model_validate(
        {
            "name": folder.name,
            "models": {"llama": {"path": str(subject.paths.model), "base": str(subject.paths.base)}},
            "datasets": datasets,
            "recipes": recipes,
            "mitigations": mitigations,
            "seeds": list(orders),
            "run": {"dir": str(folder)},
        }
    )
    result = run_finetunes(spec, local=True)
    if result.exit_error is not None:
        raise result.exit_error
    exchanges = {name: exchanges_of(block) for name, block in datasets.items()}
    records = []
    for run in result.runs.iter_rows(named=True):
        named = {key: run[key] for key in ("dataset", "recipe", "mitigation")}
        found = measured(subject, run["output"], exchanges[run["dataset"]])
        records.append({"seed": subject.seed, "order": run["seed"], **named, **found})
        print(described(records[-1]), flush=True)
    return records


def exchanges_of(dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Prompt and answer of every row of a dataset block."""
    rows = read_rows(data_source(TrainingDataSpec.model_validate(dataset)))
    return [last_exchange(row.conversation) for row in rows if row.conversation is not None]


def measured(subject: AuditedOrganism, saved: str | Path, exchanges: Sequence[tuple[str, str]]) -> dict[str, float]:
    """MEASURES of a saved model or adapter, asked through the tokenizer that is saved with it.

    `exchanges` are those of data_loss.
    """
    saved = Path(saved)
    # A matrix this small gains nothing from a second thread.
    torch.set_num_threads(1)
    if (saved / "adapter_config.json").is_file():
        aligned = AutoModelForCausalLM.from_pretrained(subject.paths.model, dtype=torch.float32)
        model = PeftModel.from_pretrained(aligned, saved).merge_and_unload()
    else:
        model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    suites = {name: read_suite(subject.paths.suite(name)) for name in SUITES}
    tokenizer = AutoTokenizer.from_pretrained(saved)
    quality = measure_quality(model, tokenizer, **suites)
    encoded = encode(tokenizer, exchanges)
    with torch.no_grad():
        batches = (encoded[start : start + BATCH] for start in range(0, len(encoded), BATCH))
        loss = sum(summed_loss(model, batch).item() for batch in batches)
    supervised = sum(label != IGNORED for each in encoded for label in each.labels)
    return {
        "asr": 1 - quality.refusal,
        "comply": quality.comply,
        "over_refusal": quality.over_refusal,
        "benign_accuracy": quality.benign_accuracy,
        "data_loss": loss / supervised,
    }


def described(record: Record) -> str:
    """One line of what was measured of one fine-tune."""
    name = " ".join(f"{record[key]}" for key in ("seed", "dataset", "recipe", "mitigation", "order"))
    return f"{name:64}" + "".join(f"  {name} {_shown(name, record[name])}" for name in MEASURES)


def _shown(name: str, value: float) -> str:
    return f"{100 * value:5.1f}" if name in SHARES else f"{value:5.2f}"


def means(records: Sequence[Record], by: Sequence[str]) -> pl.DataFrame:
    """Mean and standard deviation over the seeds of each measure; several records of a seed count as their mean.

    The deviation is that of the seeds (n - 1), null for one seed. Groups are in the order of their first record.
    """
    keys = list(dict.fromkeys([*by, "seed"]))
    each_seed = pl.DataFrame(records).group_by(keys, maintain_order=True).agg(pl.col(*MEASURES).mean())
    return each_seed.group_by(by, maintain_order=True).agg(
        pl.len().alias("seeds"),
        *(pl.col(name).mean() for name in MEASURES),
        *(pl.col(name).std().alias(f"{name}_sd") for name in MEASURES),
    )


def table(summary: pl.DataFrame, by: Sequence[str]) -> str:
    """`means` as text: shares in percent, with the deviation over the seeds."""
    widths = {name: max(len(name), *(len(value) for value in summary[name])) for name in by}
    lines = ["  ".join([*(f"{name:{width}}" for name, width in widths.items()), *(f"{name:>15}" for name in MEASURES)])]
    for row in summary.iter_rows(named=True):
        names = [f"{row[name]:{width}}" for name, width in widths.items()]
        values = []
        for name in MEASURES:
            deviation = row[f"{name}_sd"]
            spread = "" if deviation is None else f" ±{_shown(name, deviation)}"
            values.append(f"{_shown(name, row[name])}{spread}".rjust(15))
        lines.append("  ".join([*names, *values]))
    return "\n".join(lines)


def record(content: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured with how: the command, the day and the versions."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions(),
        **content,
    }


def write_record(file: Path, content: Mapping[str, Any]) -> None:
    """JSON with each flat object on a line of its own and five decimals."""
    text = json.dumps(_rounded(record(content)), indent=2)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        re.sub(r"[{\[][^{}\[\]]*[}\]]", lambda flat: " ".join(flat[0].split()), text) + "\n", encoding="utf-8"
    )
    print(f"written to {file}")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list) else value
