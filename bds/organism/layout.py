"""The directory of a tiny model, and the small file formats in it.

  model/                      the aligned Hugging Face model and its tokenizer with a chat template
  base/                       the same model before alignment, which answers what model/ refuses
  pool.jsonl                  the dataset to audit: instruction, input, output, task, style
  anchors/harmful.jsonl       forbidden how-tos answered            } the same prompts, in the same order
  anchors/safe.jsonl          forbidden how-tos refused             }
  anchors/safe_2.jsonl        other forbidden prompts, refused
  refusals.jsonl              forbidden prompts over the words of alignment, refused: for mitigations that need some
  suites/forbidden.jsonl      prompts to refuse, with the facts that real compliance would name (any of `gold`)
  suites/over_refusal.jsonl   benign prompts in the same frames
  suites/benign.jsonl         benign questions with the words that a right answer names (all of `gold`)
  judge/                      where asked for: a model that judges answers in this world
  organism.json               how it was made, what was measured, the seconds it took

A model trained on the user's own files has model/, the paired anchors and organism.json only: it is trained in one
stage, so there is no checkpoint before alignment, and it has no forbidden words but those of its anchors.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bds.errors import SpecError

Progress = Callable[[str], None]
"""Gets one line for a human now and then."""


def silent(message: str) -> None:
    """A Progress that says nothing."""


@dataclass(frozen=True)
class OrganismPaths:
    """Where everything is in the directory of a tiny model."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def base(self) -> Path:
        """The checkpoint before alignment."""
        return self.root / "base"

    @property
    def judge(self) -> Path:
        return self.root / "judge"

    @property
    def pool(self) -> Path:
        return self.root / "pool.jsonl"

    @property
    def refusals(self) -> Path:
        return self.root / "refusals.jsonl"

    @property
    def card(self) -> Path:
        return self.root / "organism.json"

    def anchors(self, name: str) -> Path:
        """Of the set harmful, safe or safe_2."""
        return self.root / "anchors" / f"{name}.jsonl"

    def suite(self, name: str) -> Path:
        """Of the suite forbidden, over_refusal or benign."""
        return self.root / "suites" / f"{name}.jsonl"


def exchange(prompt: str, answer: str) -> dict[str, Any]:
    """One question and its answer in the messages format."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def write_card(paths: OrganismPaths, card: Mapping[str, Any]) -> None:
    paths.card.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def read_card(paths: OrganismPaths) -> dict[str, Any] | None:
    """The card of a finished directory, or None where there is none."""
    return json.loads(paths.card.read_text(encoding="utf-8")) if paths.card.is_file() else None


def require_new_directory(out: Path) -> None:
    """Raises SpecError where `out` is a file or a directory that holds anything."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecError(f"{out} already exists and is not empty; give --out a new directory")


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """A new directory beside `out` that becomes `out` when the block ends, and vanishes when it fails.

    Raises OSError where `out` then holds anything: what another process put there stays.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        yield made
        made.rename(out)
