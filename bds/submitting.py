"""`bds submit`: what is checked before anything leaves this machine."""

import os
from collections.abc import Callable, Sequence

from bds.errors import PreflightError, SpecError
from bds.launch.bundle import Bundle, make_bundle
from bds.spec.identity import AnySpec
from bds.spec.paths import is_uri


def prepared(spec: AnySpec, *, say: Callable[[str], None]) -> Bundle:
    """The bundle of a spec that passed its checks, once the user has been told what it holds.

    Raises what `check_before_upload` and `make_bundle` raise.
    """
    bundle = make_bundle(spec)
    for note in check_before_upload(spec, bundle):
        say(f"note: {note}")
    for line in bundle.lines():
        say(line)
    return bundle


def printed(bundle: Bundle, spec_file: str, settings: Sequence[str], *, kuberay: bool, slurm: bool) -> str:
    """What is printed instead of submitted.

    Raises:
        SpecError: both are asked for.
        PreflightError: the files do not fit.
    """
    if kuberay and slurm:
        raise SpecError("--kuberay and --slurm print different files; give one of them")
    if kuberay:
        from bds.launch.kuberay import rayjob

        return rayjob(bundle)
    from bds.launch.slurm import sbatch_script

    return sbatch_script(bundle, spec_file, settings)


def check_before_upload(spec: AnySpec, bundle: Bundle) -> list[str]:
    """Checks a spec as its own command would, but that data, models and runs may be on the cluster alone.

    Returns:
        Notes, one line each: what only the job itself can check.

    Raises:
        SpecError: the spec asks for what cannot be.
        PreflightError: a file that is here cannot be what the spec says.
    """
    elsewhere = [path for _, path in (*bundle.taken, ("run.dir", bundle.run_dir)) if _is_elsewhere(path)]
    try:
        return check_any_spec(spec)
    except PreflightError as error:
        if not elsewhere:
            raise
        return [f"not checked here: {error}"]


def check_any_spec(spec: AnySpec, *, may_lack_files: bool = False) -> list[str]:
    """The check of a spec of any kind, as its own command makes it.

    Args:
        may_lack_files: for the plan of a study, which tells what it would take before anything is downloaded.

    Returns:
        Notes, one line each.

    Raises:
        SpecError, PreflightError: as the checks of each kind.
    """
    match spec.kind:
        case "finetune":
            from bds.checks_finetune import check_finetune_spec

            return check_finetune_spec(spec)
        case "evaluate":
            from bds.checks_evaluate import check_evaluate_spec

            return check_evaluate_spec(spec)
        case "moderate":
            from bds.checks_moderate import check_moderate_spec

            return check_moderate_spec(spec)
        case "study":
            from bds.checks_study import check_study_spec

            return check_study_spec(spec, may_lack_files=may_lack_files)
    from bds.checks import check_spec

    return check_spec(spec)


def _is_elsewhere(path: str) -> bool:
    return not is_uri(path) and not os.path.exists(path)
