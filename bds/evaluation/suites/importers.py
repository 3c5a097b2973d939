"""The registry of importers: which published suites bds reads, from which files, under whose licence.

To add one: its file beside this one, and its line in IMPORTERS.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bds.errors import SpecError
from bds.evaluation.suites.advbench import import_advbench
from bds.evaluation.suites.harmbench import import_harmbench
from bds.evaluation.suites.hexphi import import_hexphi
from bds.evaluation.suites.jailbreakbench import import_jailbreakbench
from bds.evaluation.suites.plain import PlainOptions, import_plain
from bds.evaluation.suites.sorry_bench import import_sorry_bench
from bds.evaluation.suites.strongreject import import_strongreject
from bds.evaluation.suites.suite import Imported
from bds.evaluation.suites.tiny_model import import_tiny_model
from bds.evaluation.suites.xstest import import_xstest


@dataclass(frozen=True)
class Importer:
    """One kind of upstream files and how they become suites."""

    name: str
    files: str
    """What the user gives."""
    makes: str
    """The suites and what a good model does with them."""
    licence: str
    source: str
    """Where the user gets the files, accepting the licence there."""
    read: Callable[[str, PlainOptions], Imported]


def _published(read: Callable[[str], Imported]) -> Callable[[str, PlainOptions], Imported]:
    """An importer of files whose kind and columns are upstream's. Raises SpecError for options that set them."""

    def checked(path: str, options: PlainOptions) -> Imported:
        given = [name for name, value in vars(options).items() if value != getattr(PlainOptions(), name)]
        if given:
            raise SpecError(f"'{given[0]}' is upstream's to say for this suite; leave it out, or import it as plain.")
        return read(path)

    return checked


IMPORTERS: dict[str, Importer] = {
    importer.name: importer
    for importer in (
        Importer(
            "hexphi",
            "the folder of category_N.csv",
            "hexphi, to refuse",
            "HEx-PHI Dataset License Agreement, gated",
            "https://huggingface.co/datasets/LLM-Tuning-Safety/HEx-PHI",
            _published(import_hexphi),
        ),
        Importer(
            "advbench",
            "harmful_behaviors.csv",
            "advbench, to refuse",
            "MIT",
            "https://github.com/llm-attacks/llm-attacks",
            _published(import_advbench),
        ),
        Importer(
            "xstest",
            "xstest_prompts.csv",
            "xstest_safe, to answer; xstest_unsafe, to refuse",
            "CC-BY-4.0",
            "https://github.com/paul-rottger/xstest",
            _published(import_xstest),
        ),
        Importer(
            "strongreject",
            "strongreject_dataset.csv",
            "strongreject, to refuse",
            "MIT",
            "https://github.com/alexandrasouly/strongreject",
            _published(import_strongreject),
        ),
        Importer(
            "harmbench",
            "harmbench_behaviors_text_all.csv",
            "harmbench, to refuse",
            "MIT",
            "https://github.com/centerforaisafety/HarmBench",
            _published(import_harmbench),
        ),
        Importer(
            "sorry_bench",
            "question.jsonl or sorry_bench_202406.csv",
            "sorry_bench, to refuse",
            "SORRY-Bench Dataset License Agreement, gated",
            "https://huggingface.co/datasets/sorry-bench/sorry-bench-202503",
            _published(import_sorry_bench),
        ),
        Importer(
            "jailbreakbench",
            "harmful-behaviors.csv, benign-behaviors.csv or their folder",
            "jailbreakbench_harmful, to refuse; jailbreakbench_benign, to answer",
            "MIT",
            "https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
            _published(import_jailbreakbench),
        ),
        Importer(
            "organism",
            "the directory of a tiny model",
            "organism_forbidden, to refuse; organism_over_refusal, to answer; organism_benign, utility",
            "Apache-2.0, made up",
            "bds organism",
            _published(import_tiny_model),
        ),
        Importer(
            "plain",
            "JSONL, JSON, CSV, Parquet or text",
            "one suite of the kind that the user says",
            "the user's",
            "the user",
            import_plain,
        ),
    )
}


def import_suites(importer: str, path: str, options: PlainOptions | None = None) -> Imported:
    """The suites of the user's files; `options` are for the importer `plain`.

    Raises:
        SpecError: an unknown importer, or options that upstream's files settle.
        PreflightError: the files are not what the importer reads; the sentence names file and line.
    """
    if importer not in IMPORTERS:
        raise SpecError(f"'{importer}' is no known kind of suite; use {', '.join(IMPORTERS)}.")
    return IMPORTERS[importer].read(path, options or PlainOptions())
