"""Hugging Face datasets: on the hub (hf://owner/name) and as a directory that `save_to_disk` wrote."""

import os
from typing import Any

from bds.errors import PreflightError
from bds.spec.paths import HUB_PREFIX

_SAVED_MARKERS = ("state.json", "dataset_dict.json")


def is_huggingface(path: str) -> bool:
    """True for hf://owner/name and for a local directory written by `save_to_disk`."""
    return path.startswith(HUB_PREFIX) or is_saved(path)


def is_saved(path: str) -> bool:
    return any(os.path.isfile(os.path.join(os.path.expanduser(path), marker)) for marker in _SAVED_MARKERS)


def load(path: str, split: str, subset: str | None) -> Any:
    """The `datasets.Dataset` behind the path; iterating it gives dicts.

    Raises PreflightError where it cannot be loaded or has no such split.
    """
    import datasets

    try:
        if path.startswith(HUB_PREFIX):
            return datasets.load_dataset(path.removeprefix(HUB_PREFIX).strip("/"), subset, split=split)
        dataset = datasets.load_from_disk(os.path.expanduser(path))
    except Exception as error:  # the library raises its own, the hub client's and the network's classes here
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise PreflightError(
            f"The Hugging Face dataset '{path}' (split {split}) cannot be loaded: {reason}."
        ) from error
    if not isinstance(dataset, datasets.DatasetDict):
        return dataset
    if split not in dataset:
        raise PreflightError(f"'{path}' has no split '{split}'; set data.split to one of {', '.join(sorted(dataset))}.")
    return dataset[split]
