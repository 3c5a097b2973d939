"""The reference as files: one safetensors file, or one for every process that a model was spread over.

A tensor's key names its parameter, so that a process reads those of its own parameters and nothing else, whichever
processes wrote them.

Shapes: M anchors, K directions.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import IO, Any

import safetensors.torch
from torch import Tensor

from bds.runs.directory import RunDirectory
from bds.scoring.gradients.anchors import AnchorRows
from bds.scoring.reference import Reference, ReferencePlan


def write_reference(run: RunDirectory, path: str, reference: Reference, pieces: Sequence[str] = ()) -> None:
    """Writes what this process holds; `pieces` are the files that others wrote with `write_piece`."""
    run.write_bytes(path, to_bytes(reference, pieces))


def write_piece(run: RunDirectory, path: str, rows: AnchorRows | None, directions: Mapping[str, Tensor]) -> None:
    """Writes the anchors' gradients that a process holds beside the one that writes the reference."""
    run.write_bytes(path, safetensors.torch.save(_gradient_tensors(rows, directions)))


def read_reference(run: RunDirectory, path: str, holds: Callable[[str], bool]) -> Reference:
    """The reference, with the gradients of those parameters alone for which `holds` is true."""
    with ExitStack() as stack:
        first = stack.enter_context(run.opened(path))
        # A run begun before models could be spread names none.
        pieces = _facts(first).get("pieces", [])
        folder = path.rpartition("/")[0]
        others = [stack.enter_context(run.opened(f"{folder}/{name}")) for name in pieces]
        return _from_files([first, *others], holds)


def to_bytes(reference: Reference, pieces: Sequence[str] = ()) -> bytes:
    """One safetensors file, its metadata a JSON object."""
    tensors = _gradient_tensors(reference.rows, reference.directions)
    if reference.anchor_norms_M is not None:
        tensors["norms"] = reference.anchor_norms_M
    for layer, hidden in reference.hidden_MD.items():
        tensors[f"hidden|{layer}"] = hidden.contiguous()
    if reference.compliance_direction_D is not None:
        tensors["compliance"] = reference.compliance_direction_D
    facts = {
        "counts": reference.counts,
        "plan": asdict(reference.plan),
        "compliance_layer": reference.compliance_layer,
        "compliance_scores_L": reference.compliance_scores_L,
        "pieces": list(pieces),
    }
    return safetensors.torch.save(tensors, metadata={"reference": json.dumps(facts)})


def from_bytes(content: bytes) -> Reference:
    """The whole reference of one file."""
    return _from_files([io.BytesIO(content)], lambda parameter: True)


def _gradient_tensors(rows: AnchorRows | None, directions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = {f"direction|{parameter}": tensor.contiguous() for parameter, tensor in directions.items()}
    if rows is not None:
        tensors |= {f"rows|{key}": tensor for key, tensor in rows.to_tensors().items()}
    return tensors


def _from_files(files: Sequence[IO[bytes]], holds: Callable[[str], bool]) -> Reference:
    facts = _facts(files[0])
    plan = ReferencePlan(**{**facts["plan"], "hidden_layers": tuple(facts["plan"]["hidden_layers"])})
    reference = Reference(
        facts["counts"],
        plan,
        compliance_layer=facts["compliance_layer"],
        compliance_scores_L=facts["compliance_scores_L"],
    )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= safetensors.torch.load(_selected(file, lambda key: _is_needed(key, holds)))
    rows = {key.removeprefix("rows|"): tensor for key, tensor in tensors.items() if key.startswith("rows|")}
    reference.rows = AnchorRows.from_tensors(rows) if rows else None
    reference.anchor_norms_M = tensors.get("norms")
    reference.compliance_direction_D = tensors.get("compliance")
    for key, tensor in tensors.items():
        kind, _, rest = key.partition("|")
        if kind == "hidden":
            reference.hidden_MD[int(rest)] = tensor
        elif kind == "direction":
            reference.directions[rest] = tensor
    return reference


def _is_needed(key: str, holds: Callable[[str], bool]) -> bool:
    """direction|<parameter>, rows|<kind>|<parameter>#<expert>|<part>; all other tensors are small."""
    kind, *rest = key.split("|")
    if kind == "direction":
        return holds(rest[0])
    return kind != "rows" or len(rest) == 1 or holds(rest[1].partition("#")[0])


def _header(file: IO[bytes]) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file, and where its tensors begin."""
    file.seek(0)
    size = int.from_bytes(file.read(8), "little")
    return json.loads(file.read(size)), 8 + size


def _facts(file: IO[bytes]) -> dict[str, Any]:
    header, _ = _header(file)
    facts: dict[str, Any] = json.loads(header["__metadata__"]["reference"])
    return facts


def _selected(file: IO[bytes], wanted: Callable[[str], bool]) -> bytes:
    """A safetensors file of the wanted tensors alone; the others are not read."""
    header, start = _header(file)
    chosen = {key: entry for key, entry in header.items() if key != "__metadata__" and wanted(key)}
    content, entries, end = [], {}, 0
    for key, entry in sorted(chosen.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        file.seek(start + first)
        content.append(file.read(last - first))
        entries[key] = {**entry, "data_offsets": [end, end + last - first]}
        end += last - first
    # Tensors begin at a multiple of eight, as in every file that safetensors writes.
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *content])
