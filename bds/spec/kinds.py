"""The kinds of YAML files that bds reads: what each holds, and what messages say of it."""

from dataclasses import dataclass
from typing import Any

from bds.errors import SpecError
from bds.spec.document import Document
from bds.spec.evaluate import EvaluateSpec
from bds.spec.fields import suggestion
from bds.spec.finetune import FinetuneSpec, RecipeSpec
from bds.spec.models import AuditSpec, Block
from bds.spec.moderate import ModerateSpec
from bds.spec.study import StudySpec


@dataclass(frozen=True)
class Kind:
    """One kind of file. In its texts {file} stands for the file that the user named."""

    root: type[Block]
    called: str
    whole_name: str
    needs: str
    """The least that it holds."""
    use: str
    """What to do with it."""
    instead: str
    """What to do with a data file that was taken for it."""
    borrows: bool = False
    """Its keys are mostly those of other kinds, of which they stay the mark."""


AUDIT = Kind(
    AuditSpec,
    "spec",
    "the spec of an audit",
    "data, model and run.dir",
    "run it with `bds audit {file}`",
    "write `bds audit --model MODEL --data {file}`",
)
FINETUNE = Kind(
    FinetuneSpec,
    "spec",
    "the spec of fine-tunes",
    "models, datasets, recipes and run.dir",
    "run it with `bds finetune {file}`",
    "write `bds finetune --model MODEL --dataset {file} --recipe RECIPE.yaml`",
)
EVALUATE = Kind(
    EvaluateSpec,
    "spec",
    "the spec of an evaluation",
    "models, suites and run.dir",
    "run it with `bds evaluate {file}`",
    "write `bds evaluate --model MODEL --suite {file}`",
)
MODERATE = Kind(
    ModerateSpec,
    "spec",
    "the spec of a moderation",
    "data, judges and run.dir",
    "run it with `bds moderate {file}`",
    "write `bds moderate --judge METHOD=MODEL {file}`",
    borrows=True,
)
RECIPE = Kind(
    RecipeSpec,
    "recipe",
    "a recipe",
    "learning_rate, epochs and batch",
    "name it under `recipes` of a spec, or write `bds finetune --model MODEL --dataset DATA --recipe {file}`",
    "datasets go after `--dataset`",
)
STUDY = Kind(
    StudySpec,
    "spec",
    "the spec of a study",
    "models, datasets, selections, recipes, suites and run.dir",
    "run it with `bds study {file}`",
    "name it under `datasets` of a study's spec",
    borrows=True,
)
KINDS = {
    "audit": AUDIT,
    "finetune": FINETUNE,
    "evaluate": EVALUATE,
    "moderate": MODERATE,
    "study": STUDY,
    "recipe": RECIPE,
}

_SPECS = tuple(name for name, kind in KINDS.items() if kind.called == "spec")
"""The kinds that a file can say in its `kind`."""


def kind_named(name: str) -> Kind:
    """Raises SpecError where there is no kind of file of that name."""
    if name not in KINDS:
        raise SpecError(f"'{name}' is no kind of file that has a schema; {suggestion(name, list(KINDS))}")
    return KINDS[name]


def kind_of(document: Document) -> Kind | None:
    """What a file is, as its `kind` says or else most of its keys; None where they do not tell.

    Raises:
        SpecError: its `kind` is another one.
    """
    said: Any = document.value.get("kind")
    if said is None:
        counts = {name: len(_own_keys(kind) & document.value.keys()) for name, kind in KINDS.items()}
        first, second, *_ = sorted(counts, key=lambda name: -counts[name])
        return KINDS[first] if counts[first] > counts[second] else None
    if said not in _SPECS:
        line = document.lines.get(("kind",), 1)
        raise SpecError(
            f"{document.source}:{line}: field kind: {said!r} is no kind of spec; {suggestion(str(said), _SPECS)}"
        )
    return KINDS[said]


def refuse_other_kind(document: Document, wanted: Kind) -> None:
    """Raises SpecError where a file is of another kind than the one that is wanted of it."""
    kind = kind_of(document)
    if kind is not None and kind is not wanted:
        line = document.lines.get(("kind",), 1)
        raise SpecError(
            f"{document.source}:{line}: this is {kind.whole_name}, not {wanted.whole_name}; "
            f"{kind.use.format(file=document.source)}"
        )


def _own_keys(kind: Kind) -> set[str]:
    """The keys that no other kind of file has."""
    others = (set(other.root.model_fields) for other in KINDS.values() if other is not kind and not other.borrows)
    return set(kind.root.model_fields).difference(*others)
