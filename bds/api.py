"""`bds.audit(...)`: the audit as a function."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bds.checks import check_spec
from bds.spec.load import spec_from_options
from bds.spec.options import option_overrides
from bds.spec.overrides import setting_override

if TYPE_CHECKING:
    from bds.distributed.audit import AuditResult


def audit(
    *,
    model: str,
    data: str,
    detectors: Sequence[str] | None = None,
    anchors: Mapping[str, str] | None = None,
    top: int | None = None,
    run_dir: str | None = None,
    format: str | None = None,
    limit: int | None = None,
    address: str | None = None,
    settings: Mapping[str, Any] | None = None,
    fresh: bool = False,
    local: bool = False,
) -> "AuditResult":
    """Score every row of a dataset against a chat model and write selections and report; resumes a stopped run.

    Args:
        model: A local directory or a Hugging Face model name.
        data: A file, a folder, any pyarrow.fs URI, or `hf://owner/name`.
        detectors: Names that `bds ls detectors` prints; None for every one that the anchors allow.
        anchors: Set name to file; a name begins with `harmful` or `safe`.
        top: Rows in each selection; None for the default selections of 100.
        run_dir: A path or any pyarrow.fs URI; None for `runs/<data>-<model>`.
        format: Format of the dataset; None detects it.
        limit: Read only the first rows.
        address: A Ray cluster; None for this machine.
        settings: Any other field of the spec by its dotted name, for example `{"tokens.max_tokens": 512}`.
        fresh: Start anew in a run directory that holds another run.
        local: Run in this process, without Ray.

    Raises:
        SpecError, PreflightError: something is wrong before any work starts.
        BdsError: the run failed. A tripped gate or too many failed rows do not raise: see `AuditResult.exit_error`.
    """
    options = option_overrides(
        model=model,
        data=data,
        format=format,
        detectors=detectors,
        anchors=anchors,
        top=top,
        limit=limit,
        run_dir=run_dir,
        address=address,
        prefix="bds.audit ",
    )
    others = [setting_override(name, value, origin="bds.audit") for name, value in (settings or {}).items()]
    spec = spec_from_options([*options, *others], source="bds.audit")
    check_spec(spec)
    from bds.distributed.audit import run_audit

    return run_audit(spec, fresh=fresh, local=local)
