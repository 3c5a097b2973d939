"""Whether what a spec names on the Hugging Face hub is there and may be had, asked before any work starts."""

import json
import os
from pathlib import Path

from pydantic import BaseModel

from bds.errors import PreflightError
from bds.runs.messages import first_line
from bds.spec.named_paths import HubName, hub_names

_SECONDS = 10.0

_CONFIGURATIONS = {"model": "config.json", "adapter": "adapter_config.json", "dataset": "README.md"}
"""The file that is asked for. What may be read of a gated repository is all of it or nothing."""

_WEIGHTS = ("*.safetensors", "*.bin")


def check_hub(spec: BaseModel) -> None:
    """Raises PreflightError for the first model, adapter or dataset of a spec that can be neither found nor
    downloaded."""
    for name in hub_names(spec):
        told = hub_complaint(name)
        if told is not None:
            raise PreflightError(f"field {name.field}: {told}")


def hub_complaint(name: HubName) -> str | None:
    """Why it cannot be had from this machine, with the way out; None where it is in the cache or can be downloaded.

    Asks for the head of one file rather than by `auth_check`, which has no limit to its time.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if in_cache(name):
        return None
    file = _CONFIGURATIONS[name.kind]
    repo_type = "dataset" if name.kind == "dataset" else "model"
    page = f"{constants.ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{name.name}"
    try:
        url = hf_hub_url(name.name, file, repo_type=repo_type, revision=name.revision)
        if constants.is_offline_mode():
            raise OfflineModeIsEnabled
        get_hf_file_metadata(url, timeout=_SECONDS)
    except GatedRepoError:
        has_token = "the token that is set has no" if _has_token() else "no token is set, so there is no"
        return (
            f"{name.name} is gated and {has_token} access to it; ask for access at {page}, then set HF_TOKEN to a "
            "token of that account"
        )
    except RepositoryNotFoundError:
        return (
            f"the hub shows this machine no {repo_type} {name.name}; check the name, or set HF_TOKEN if it is private"
        )
    except RevisionNotFoundError:
        return f"{name.name} has no revision '{name.revision}'; choose one of {page}/commits/main"
    except EntryNotFoundError:
        return None if repo_type == "dataset" else f"{page} has no {file}, so it is no {name.kind} for transformers"
    except OfflineModeIsEnabled:
        # Of datasets the library keeps copies of its own, and says itself when it has none.
        return (
            None if repo_type == "dataset" else f"HF_HUB_OFFLINE is on and {_not_cached(name)}, or unset the variable"
        )
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            return f"the hub refuses this machine {name.name} (HTTP {status}); set HF_TOKEN to a token that may read it"
        return _unreachable(name, f"HTTP {status}")
    except ValueError as error:
        return f"'{name.name}' is no folder here and no name of the hub either ({first_line(error)}); write owner/name"
    except Exception as error:  # the hub client and its network library raise their own kinds
        return _unreachable(name, f"{type(error).__name__}: {first_line(error)}")
    return None


def in_cache(name: HubName) -> bool:
    """Whether the hub's cache on this machine has its configuration and all its weights."""
    from huggingface_hub import try_to_load_from_cache

    if name.kind == "dataset":
        return False
    try:
        found = try_to_load_from_cache(name.name, _CONFIGURATIONS[name.kind], revision=name.revision)
    except ValueError:
        return False
    if not isinstance(found, str):
        return False
    folder = Path(found).parent
    for index in folder.glob("*.index.json"):
        return all((folder / part).exists() for part in json.loads(index.read_text())["weight_map"].values())
    return any(True for pattern in _WEIGHTS for _ in folder.glob(pattern))


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _unreachable(name: HubName, reason: str) -> str | None:
    from huggingface_hub import constants

    if name.kind == "dataset":
        return None
    return f"the hub at {constants.ENDPOINT} does not answer ({reason}) and {_not_cached(name)}, or mend the network"


def _not_cached(name: HubName) -> str:
    from huggingface_hub import constants

    cache = os.path.join(constants.HF_HUB_CACHE, "")
    return f"{name.name} is not whole in the cache {cache}; run `hf download {name.name}` where there is a network"
