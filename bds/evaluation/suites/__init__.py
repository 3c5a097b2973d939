"""Suites: the prompts that models are measured with, and the files that they come from."""

from bds.evaluation.suites.folder import load_suite, write_suite
from bds.evaluation.suites.importers import IMPORTERS, Importer, import_suites
from bds.evaluation.suites.placeholders import placeholder_suites
from bds.evaluation.suites.plain import PlainOptions
from bds.evaluation.suites.suite import KINDS, Imported, Kind, Suite, SuitePrompt

__all__ = [
    "IMPORTERS",
    "KINDS",
    "Imported",
    "Importer",
    "Kind",
    "PlainOptions",
    "Suite",
    "SuitePrompt",
    "import_suites",
    "load_suite",
    "placeholder_suites",
    "write_suite",
]
