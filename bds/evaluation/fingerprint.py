"""What a model is, told by what is in its files: the key of everything that it answers."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from bds.data.values import canonical_json

_DECIDING = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"}
"""Endings of files that decide an answer: weights, configurations, tokenizer and chat template."""

_TELLING_NOTHING = {"_name_or_path", "base_model_name_or_path", "transformers_version", "peft_version", "revision"}
"""Fields of configurations that say where a model came from, not what it is."""

_CONFIGURATIONS = ("config.json", "adapter_config.json", "generation_config.json")
_BLOCK = 1 << 22


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 over the names and contents of a model's or adapter's deciding files, read whole.

    Two copies at different places have the same; a fine-tune, another chat template or tokenizer has its own.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in _DECIDING and not file.name.startswith("."):
            digest.update(f"{file.name}\0".encode())
            for part in _content(file):
                digest.update(part)
    return digest.hexdigest()


def combined(*parts: str) -> str:
    """SHA-256 over some fingerprints, in order."""
    return hashlib.sha256(canonical_json(list(parts))).hexdigest()


def _content(file: Path) -> Iterator[bytes]:
    if file.name in _CONFIGURATIONS:
        yield _settings(file)
        return
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            yield block


def _settings(file: Path) -> bytes:
    """A configuration without what tells nothing; its bytes where it is no JSON object."""
    content = file.read_bytes()
    try:
        value = json.loads(content)
    except ValueError:
        return content
    if not isinstance(value, dict):
        return content
    return canonical_json({name: entry for name, entry in value.items() if name not in _TELLING_NOTHING})
