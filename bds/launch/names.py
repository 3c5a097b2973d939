"""What a submitted run is called."""

from bds.launch.bundle import run_dir_of
from bds.spec.entries import folder_name
from bds.spec.identity import AnySpec


def job_name(spec: AnySpec) -> str:
    """The spec's name where it was given one, else the last part of the run directory; letters that an id can have."""
    named = spec.name if spec.name != type(spec).model_fields["name"].default else run_dir_of(spec)
    return "".join(letter if letter.isascii() else "_" for letter in folder_name(named)).strip("._-+") or spec.kind
