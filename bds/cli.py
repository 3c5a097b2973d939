"""The command line: each command reads its options, calls one function and shows what that returns.

Text for humans goes to stderr, results to stdout. Heavy modules are imported inside the command that needs them, so
that help and the commands that only look at files answer at once.
"""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bds.cli_errors import exit_code_of, say
from bds.errors import BdsError, SpecError

if TYPE_CHECKING:
    from bds.spec.identity import AnySpec
    from bds.spec.overrides import Override

app = typer.Typer(
    name="bds",
    help="Find the samples in an ordinary fine-tuning dataset that would break a chat model's safety alignment.",
    epilog="--debug anywhere shows the traceback of an error. Exit codes: 0 ok, 1 failure, 2 bad spec, 3 preflight, "
    "4 too many failed rows, 5 gate tripped, 130/143 interrupted (run the same command again to go on).",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

SpecFile = Annotated[
    str | None, typer.Argument(metavar="[SPEC.yaml]", help="A spec; options below replace its fields.")
]
Model = Annotated[str | None, typer.Option(metavar="M", help="Model folder or Hugging Face name.")]
Data = Annotated[str | None, typer.Option(metavar="D", help="Dataset: a file, a URI or hf://owner/name.")]
Format = Annotated[str | None, typer.Option(metavar="F", help="Format of the dataset; `bds ls formats` lists them.")]
Detectors = Annotated[
    list[str] | None,
    typer.Option("--detector", metavar="NAME", help="Repeat for several; `bds ls detectors` lists them."),
]
Anchors = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FILE", help="An anchor set; its name begins with harmful or safe. Repeat."),
]
Top = Annotated[int | None, typer.Option(metavar="N", help="Rows in each selection, 100 when left out.")]
RunDir = Annotated[str | None, typer.Option(metavar="R", help="Run directory, runs/<data>-<model> when left out.")]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Read only the first N rows.")]
Address = Annotated[str | None, typer.Option(metavar="A", help="A Ray cluster; left out: this machine.")]
Wait = Annotated[
    str | None,
    typer.Option(
        "--wait-for-resources", metavar="T", help="How long to wait for the cluster to have room: 90s, 10m, 2h."
    ),
]
JobsAddress = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="The cluster's dashboard, http://HEAD:8265; left out: this machine."),
]
WaitForEnd = Annotated[
    bool, typer.Option("--wait", help="Follow the job to its end and exit as it does; Ctrl-C leaves it running.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Set any field of the spec; the value is YAML. Repeat."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew in a run directory that holds another run.")]
Local = Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


@app.command()
def audit(
    context: typer.Context,
    spec: SpecFile = None,
    model: Model = None,
    data: Data = None,
    format: Format = None,
    detectors: Detectors = None,
    anchors: Anchors = None,
    top: Top = None,
    run_dir: RunDir = None,
    limit: Limit = None,
    address: Address = None,
    wait: Wait = None,
    settings: Settings = None,
    fresh: Fresh = False,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Audit a dataset and write the report.

    Every row is scored, the selections are written as datasets. Run again, it goes on where it stopped; other detectors
    or selections then need no model where they are formulas over what was collected.
    """
    from bds.spec.load import load_spec, spec_from_options
    from bds.spec.options import waiting_override

    options = _options(model, data, format, detectors, anchors, top, run_dir, limit, address)
    overrides = [*options, *waiting_override(wait), *(settings or ())]
    requested = spec_from_options(overrides) if spec is None else load_spec(spec, overrides)
    _run(requested, command=context.obj, fresh=fresh, local=local, as_json=as_json)


@app.command()
def finetune(
    context: typer.Context,
    spec: SpecFile = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="M", help="Model folder or Hugging Face name. Repeat.")
    ] = None,
    datasets: Annotated[
        list[str] | None,
        typer.Option("--dataset", metavar="D", help="Dataset: a file, a URI or hf://owner/name. Repeat."),
    ] = None,
    recipes: Annotated[
        list[str] | None, typer.Option("--recipe", metavar="R.yaml", help="Recipe file. Repeat.")
    ] = None,
    mitigations: Annotated[
        list[str] | None,
        typer.Option("--mitigation", metavar="METHOD", help="none or what `bds ls mitigations` lists. Repeat."),
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", metavar="N", help="A fine-tune for each, 0 when left out. Repeat.")
    ] = None,
    run_dir: Annotated[
        str | None,
        typer.Option(metavar="R", help="Run directory, runs/finetune-<dataset>-<model> when left out."),
    ] = None,
    address: Address = None,
    wait: Wait = None,
    settings: Settings = None,
    fresh: Fresh = False,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune models on datasets.

    Every model on every dataset by every recipe under every mitigation, each seed. Run again, it goes on where it
    stopped.
    """
    from bds.spec.load import finetune_spec_from_options, load_finetune_spec
    from bds.spec.options import finetune_overrides, waiting_override

    options = finetune_overrides(
        models=models,
        datasets=datasets,
        recipes=recipes,
        mitigations=mitigations,
        seeds=seeds,
        run_dir=run_dir,
        address=address,
    )
    overrides = [*options, *waiting_override(wait), *(settings or ())]
    requested = finetune_spec_from_options(overrides) if spec is None else load_finetune_spec(spec, overrides)
    _run(requested, command=context.obj, fresh=fresh, local=local, as_json=as_json)


@app.command()
def evaluate(
    context: typer.Context,
    spec: SpecFile = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="M", help="Model folder or Hugging Face name. Repeat.")
    ] = None,
    finetunes: Annotated[
        list[str] | None, typer.Option("--finetunes", metavar="R", help="A run of `bds finetune`: all of it. Repeat.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server that is up, up to /v1.")
    ] = None,
    served_as: Annotated[
        str | None, typer.Option(metavar="NAME", help="The name that the endpoint knows the model by.")
    ] = None,
    suites: Annotated[
        list[str] | None,
        typer.Option("--suite", metavar="S", help="Folder or file with prompts, or placeholder. Repeat."),
    ] = None,
    judges: Annotated[
        list[str] | None,
        typer.Option("--judge", metavar="METHOD[=MODEL]", help="What `bds ls judges` lists, with its model. Repeat."),
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", metavar="TASK", help="A task of lm-eval, or its YAML file. Repeat.")
    ] = None,
    run_dir: Annotated[
        str | None, typer.Option(metavar="R", help="Run directory, runs/evaluate-<model> when left out.")
    ] = None,
    address: Address = None,
    wait: Wait = None,
    settings: Settings = None,
    fresh: Fresh = False,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Measure refusals, harm and usefulness of models.

    Every model, adapter and fine-tune answers every suite, every judge judges. Run again, it asks what is missing.
    """
    from bds.spec.load import evaluate_spec_from_options, load_evaluate_spec
    from bds.spec.options import evaluate_overrides, parse_judges, waiting_override

    options = evaluate_overrides(
        models=models,
        finetunes=finetunes,
        endpoint=endpoint,
        served_as=served_as,
        suites=suites,
        judges=parse_judges(judges or []),
        tasks=tasks,
        run_dir=run_dir,
        address=address,
    )
    overrides = [*options, *waiting_override(wait), *(settings or ())]
    requested = evaluate_spec_from_options(overrides) if spec is None else load_evaluate_spec(spec, overrides)
    _run(requested, command=context.obj, fresh=fresh, local=local, as_json=as_json)


@app.command()
def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="Run directory of an evaluation.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="What it is compared with.")],
    pairs: Annotated[
        list[str] | None, typer.Option("--pair", metavar="A=B", help="A group of A and one of B. Repeat.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Write compare.json and report.html there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two evaluations, prompt by prompt.

    Only the same suites by the same judges; without --pair each group that both have.
    """
    from bds.comparing import compare as compare_evaluations
    from bds.runs.directory import RunDirectory

    found, text, page = compare_evaluations(run_a, run_b, pairs or ())
    if out is not None:
        folder = RunDirectory(out)
        folder.write_json("compare.json", found)
        folder.write_bytes("report.html", page.encode())
    _show(found, text, as_json=as_json)


@app.command()
def serve(
    spec: Annotated[str, typer.Argument(metavar="SPEC.yaml", help="The spec of an evaluation.")],
    port: Annotated[int | None, typer.Option(metavar="N", help="Port of the server, a free one when left out.")] = None,
    address: Address = None,
    wait: Wait = None,
    settings: Settings = None,
) -> None:
    """Serve the models of an evaluation.

    They stay up behind an OpenAI-compatible server for any client, until Ctrl-C.
    """
    from bds.checks_evaluate import check_evaluate_spec
    from bds.spec.load import load_evaluate_spec
    from bds.spec.options import evaluate_overrides, waiting_override

    options = [*evaluate_overrides(address=address), *waiting_override(wait)]
    requested = load_evaluate_spec(spec, [*options, *(settings or ())])
    check_evaluate_spec(requested)
    from bds.distributed.serve import serve_conditions

    serve_conditions(requested, port=port, report=say)


@app.command()
def moderate(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(metavar="[DATA|SPEC.yaml]", help="A dataset, or a spec of a moderation.")
    ] = None,
    audit: Annotated[
        str | None, typer.Option(metavar="R", help="Instead of a dataset: an audit, whose report shows the verdicts.")
    ] = None,
    judges: Annotated[
        list[str] | None,
        typer.Option("--judge", metavar="METHOD[=MODEL]", help="What `bds ls judges` lists, with its model. Repeat."),
    ] = None,
    format: Format = None,
    limit: Limit = None,
    run_dir: Annotated[
        str | None, typer.Option(metavar="R", help="Run directory, runs/moderate-<data> when left out.")
    ] = None,
    address: Address = None,
    wait: Wait = None,
    settings: Settings = None,
    fresh: Fresh = False,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Have guard models judge a dataset's own answers.

    The baseline of explicit harm, which ordinary but damaging samples pass. Run again, it goes on where it stopped.
    """
    from bds.spec.load import load_moderate_spec, moderate_spec_from_options
    from bds.spec.options import moderate_overrides, parse_judges, waiting_override

    is_spec = source is not None and source.endswith((".yaml", ".yml"))
    options = moderate_overrides(
        data=None if is_spec else source,
        audit=audit,
        format=format,
        judges=parse_judges(judges or []),
        limit=limit,
        run_dir=run_dir,
        address=address,
    )
    overrides = [*options, *waiting_override(wait), *(settings or ())]
    requested = load_moderate_spec(str(source), overrides) if is_spec else moderate_spec_from_options(overrides)
    _run(requested, command=context.obj, fresh=fresh, local=local, as_json=as_json)


@app.command()
def study(
    context: typer.Context,
    spec: Annotated[str, typer.Argument(metavar="SPEC.yaml", help="The spec of a study.")],
    run_dir: Annotated[str | None, typer.Option(metavar="R", help="Instead of the spec's run directory.")] = None,
    address: Address = None,
    wait: Wait = None,
    settings: Settings = None,
    fresh: Fresh = False,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Choose samples on some models and break others with them.

    Audits, fine-tunes and evaluates what the spec names, each distinct step once, and writes the transfer matrix. Run
    again, it does what is missing.
    """
    from bds.spec.load import load_study_spec
    from bds.spec.options import study_overrides, waiting_override

    options = [*study_overrides(run_dir=run_dir, address=address), *waiting_override(wait)]
    requested = load_study_spec(spec, [*options, *(settings or ())])
    _run(requested, command=context.obj, fresh=fresh, local=local, as_json=as_json)


@app.command()
def submit(
    spec: Annotated[str, typer.Argument(metavar="SPEC.yaml", help="A spec of any kind.")],
    run_dir: Annotated[str | None, typer.Option(metavar="R", help="Instead of the spec's run directory.")] = None,
    address: JobsAddress = None,
    wait_for_resources: Wait = None,
    settings: Settings = None,
    wait: WaitForEnd = False,
    kuberay: Annotated[bool, typer.Option("--kuberay", help="Print a RayJob for KubeRay instead.")] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="Print a script for sbatch instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a spec as a job on a Ray cluster.

    Uploads the spec and the small files it names, and says which; data and models stay where they are. Submitted again,
    it goes on where it stopped.
    """
    from bds.spec.document import dotted
    from bds.spec.load import load_any_spec
    from bds.spec.options import waiting_override
    from bds.submitting import prepared, printed

    overrides = [*(settings or ()), *([] if run_dir is None else [f"run.dir={run_dir}"])]
    # As text, because a printed script gives them to the command that it runs.
    overrides += [f"{dotted(each.path)}={each.value}" for each in waiting_override(wait_for_resources)]
    requested = load_any_spec(spec, overrides)
    bundle = prepared(requested, say=say)
    if kuberay or slurm:
        print(printed(bundle, spec, overrides, kuberay=kuberay, slurm=slurm), end="")
        return
    from bds.distributed.submission import submit_bundle

    raise typer.Exit(submit_bundle(bundle, address, wait=wait, as_json=as_json, say=say))


@app.command()
def resume(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")],
    address: Annotated[
        str | None, typer.Option(metavar="URL", help="Go on there as a new job; left out: on this machine.")
    ] = None,
    wait: WaitForEnd = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a run.

    Takes the spec from the run directory and does what is missing, here or as a new job of a cluster.
    """
    from bds.resuming import resumable

    found = resumable(run)
    if address is None:
        _run(found.spec, command=context.obj, fresh=False, local=found.local, as_json=as_json)
        return
    from bds.submitting import prepared

    bundle = prepared(found.spec, say=say)
    from bds.distributed.submission import submit_bundle

    raise typer.Exit(submit_bundle(bundle, address, wait=wait, as_json=as_json, say=say))


@app.command()
def status(
    run: Annotated[str, typer.Argument(metavar="RUN|JOB", help="A run directory, or the id of a job.")],
    address: JobsAddress = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again every few seconds, until it is over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say how far a run is.

    Who works on it, what is done of what was planned, what failed and how to go on: from the run directory, which
    outlives its cluster. With --address also what the cluster says.
    """
    from bds.watching import told_until_over

    for told, text in told_until_over(run, address, watch=watch):
        _show(told, text, as_json=as_json)


@app.command()
def logs(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The id that `bds submit` printed.")],
    address: JobsAddress = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Until the job is over.")] = False,
) -> None:
    """Print what a job has printed."""
    from bds.distributed.submission import print_logs

    print_logs(job, address, follow=follow, say=say)


@app.command()
def stop(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The id that `bds submit` printed.")],
    address: JobsAddress = None,
) -> None:
    """Stop a job.

    What is finished is kept: `bds resume` goes on with its run.
    """
    from bds.distributed.submission import stop_job

    stop_job(job, address, say=say)


@app.command(hidden=True)
def unpack(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE.json", help="What `bds submit` uploaded.")],
) -> None:
    """Copy the files of a submitted bundle into its run directory, as the first thing that its job does."""
    from bds.launch.bundle import place_files

    say(f"{place_files(bundle)} files copied into the run directory")


@app.command()
def plan(
    spec: SpecFile = None,
    model: Model = None,
    data: Data = None,
    format: Format = None,
    detectors: Detectors = None,
    anchors: Anchors = None,
    top: Top = None,
    run_dir: RunDir = None,
    limit: Limit = None,
    settings: Settings = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Also what an actor or a worker takes, from the model's configuration.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a spec would do.

    Reads the datasets and prints rows, shards, passes and storage, samples and optimiser steps, or answers and
    verdicts; of a study its steps, what they share, and the time and price of what is left. Loads no model.
    """
    from bds.spec.load import load_any_spec, spec_from_options
    from bds.submitting import check_any_spec

    options = _options(model, data, format, detectors, anchors, top, run_dir, limit, None)
    overrides = [*options, *(settings or ())]
    requested = spec_from_options(overrides) if spec is None else load_any_spec(spec, overrides)
    notes = check_any_spec(requested, may_lack_files=True)
    planned, text = _plan(requested)
    if memory:
        from bds.planning_memory import memory_text, plan_memory

        planned["memory"] = plan_memory(requested)
        text = f"{text}\n{memory_text(planned['memory'])}"
    _show({**planned, "notes": notes}, "\n".join([text, *notes]), as_json=as_json)


@app.command()
def validate(
    spec: Annotated[str, typer.Argument(metavar="SPEC.yaml", help="The spec to check.")],
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Check a spec of an audit, of fine-tunes or of an evaluation.

    Also checks what can be known without reading the dataset or loading the model: files, anchors, names.
    """
    from bds.spec.identity import spec_hash
    from bds.spec.load import load_any_spec
    from bds.submitting import check_any_spec

    requested = load_any_spec(spec, settings or ())
    notes = check_any_spec(requested)
    checked: dict[str, Any] = {"spec": requested.model_dump(mode="json"), "hash": spec_hash(requested), "notes": notes}
    text = f"{spec} is a valid spec (hash {spec_hash(requested)[:12]})"
    if requested.kind == "finetune":
        from bds.training.plan import expand

        checked["finetunes"] = number = len(expand(requested))
        text += f" of {number:,} {'fine-tune' if number == 1 else 'fine-tunes'}"
    if requested.kind == "evaluate":
        from bds.planning_evaluate import plan_evaluation

        checked["answers"] = answers = plan_evaluation(requested)["answers"]
        text += f" of {answers:,} answers"
    _show(checked, "\n".join([text, *notes]), as_json=as_json)


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(metavar="[audit|finetune|evaluate|moderate|study|recipe]")] = "audit",
) -> None:
    """Print the JSON Schema of a spec or a recipe, for editors."""
    from bds.spec.kinds import kind_named

    print(json.dumps(kind_named(kind).root.model_json_schema(), indent=2))


@app.command(name="ls")
def list_names(
    what: Annotated[
        str, typer.Argument(metavar="detectors|formats|judges|mitigations|runs|selections|suites|templates")
    ],
    folder: Annotated[str | None, typer.Argument(metavar="[FOLDER]", help="Of runs: where to look, runs/.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what a spec can name, or the runs in a folder.

    Detectors, judges, suites and mitigations come with needs, costs and sources.
    """
    from bds.listing import listing, listing_text
    from bds.run_listing import list_runs

    if folder is not None and what != "runs":
        raise SpecError(f"{folder} is not expected here; only `bds ls runs` looks in a folder")
    rows = list_runs(folder or "runs") if what == "runs" else listing(what)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        print(listing_text(rows))


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")], as_json: AsJson = False
) -> None:
    """Write a finished run's report again.

    Nothing is computed again.
    """
    from bds.report.archive import rewrite_report

    path = rewrite_report(run)
    print(json.dumps({"report": path}) if as_json else path)


@app.command()
def demo(
    context: typer.Context,
    run_dir: Annotated[str, typer.Option(metavar="R", help="Run directory.")] = "runs/demo",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the tiny model and its world.")] = 0,
    settings: Settings = None,
    fresh: Fresh = False,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """The whole story on a made-up world, offline, in minutes.

    Trains a tiny aligned chat model, audits its dataset, fine-tunes it on what was selected, on random rows and on the
    filtered dataset, asks them all what should be refused, and reports.
    """
    from bds.demo import prepare_demo

    spec = prepare_demo(run_dir, seed=seed, overrides=settings or (), say=say)
    _run(spec, command=context.obj, fresh=fresh, local=local, as_json=as_json)


@app.command()
def organism(
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write.")],
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the world, the model and every draw.")] = 0,
    architecture: Annotated[str, typer.Option(metavar="NAME", help="llama, gpt_neox or qwen2.")] = "llama",
    text: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Train on these datasets instead of the made-up world.")
    ] = None,
    more_text: Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="More files after --text.")] = None,
    judge: Annotated[bool, typer.Option("--judge", help="Train a judge of the made-up world, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a tiny chat model to try bds on.

    Aligned over a made-up world, with its pool, anchors and suites, or trained for a minute on your own text.
    """
    from bds.demo import audit_command, write_organism

    if more_text and not text:
        raise SpecError(f"{more_text[0]} is not expected here; write --text before the files to train on")
    files = [*(text or []), *(more_text or [])]
    written = write_organism(out, seed=seed, architecture=architecture, text_files=files, judge=judge, say=say)
    lines = [*(f"{name}: {path}" for name, path in written.items()), f"audit it with: {audit_command(written)}"]
    _show(written, "\n".join(lines), as_json=as_json)


@app.command()
def doctor(
    spec: Annotated[
        str | None, typer.Argument(metavar="[SPEC.yaml]", help="A spec of any kind: can this machine run it?")
    ] = None,
    run_dir: Annotated[str | None, typer.Option(metavar="R", help="Test writing to this run directory.")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine has and lacks.

    Versions against the tested ranges, GPUs, memory, storage, credentials; of a spec also its inputs, its disk, its
    models on the hub, and the memory that an actor takes with the batches that fit.
    """
    from bds.doctor import doctor_text, examine, examine_spec, required_but_missing, run_dir_of

    if spec is None:
        findings = examine(run_dir)
    else:
        from bds.spec.load import load_any_spec

        requested = load_any_spec(spec, settings or ())
        findings = [*examine(run_dir or run_dir_of(requested)), *examine_spec(requested)]
    _show([vars(finding) for finding in findings], doctor_text(findings), as_json=as_json)
    required_but_missing(findings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    kept = [argument for argument in given if argument != "--debug"] or ["--help"]
    command = typer.main.get_command(app)

    def run() -> None:
        # Not command.main(), which turns an interruption into an exit code of its own.
        with command.make_context("bds", kept, obj=["bds", *given]) as context:
            command.invoke(context)

    return exit_code_of(run, kept, debug="--debug" in given)


def _options(
    model: str | None = None,
    data: str | None = None,
    format: str | None = None,
    detectors: list[str] | None = None,
    anchors: list[str] | None = None,
    top: int | None = None,
    run_dir: str | None = None,
    limit: int | None = None,
    address: str | None = None,
) -> "list[Override]":
    from bds.spec.options import option_overrides, parse_anchors

    return option_overrides(
        model=model,
        data=data,
        format=format,
        detectors=detectors,
        anchors=parse_anchors(anchors or []),
        top=top,
        limit=limit,
        run_dir=run_dir,
        address=address,
    )


def _plan(spec: "AnySpec") -> tuple[dict[str, Any], str]:
    match spec.kind:
        case "finetune":
            from bds.planning_finetune import finetune_plan_text, plan_finetunes

            planned = plan_finetunes(spec)
            return planned, finetune_plan_text(planned)
        case "evaluate":
            from bds.planning_evaluate import evaluation_plan_text, plan_evaluation

            planned = plan_evaluation(spec)
            return planned, evaluation_plan_text(planned)
        case "moderate":
            from bds.planning_moderate import moderation_plan_text, plan_moderation

            planned = plan_moderation(spec)
            return planned, moderation_plan_text(planned)
        case "study":
            from bds.planning_study import plan_study_steps, study_plan_text

            planned = plan_study_steps(spec)
            return planned, study_plan_text(planned)
    from bds.planning import plan_audit, plan_text

    planned = plan_audit(spec)
    return planned, plan_text(planned)


def _run(spec: "AnySpec", *, command: Sequence[str], fresh: bool, local: bool, as_json: bool) -> None:
    """Check a spec, run it and show the outcome, whatever its kind."""
    from bds.running import run_spec

    outcome = run_spec(spec, command=command, fresh=fresh, local=local, say=say)
    _finish(outcome.headline, outcome.report, outcome.summary, outcome.exit_error, as_json=as_json)


def _finish(headline: str, report: str, summary: dict[str, Any], exit_error: BdsError | None, *, as_json: bool) -> None:
    """Show the outcome; the report's path is the last line, and what tripped a gate or failed too often still exits."""
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    say(headline)
    if exit_error is not None:
        say(f"error: {exit_error}")
    if not as_json:
        print(report, flush=True)
    if exit_error is not None:
        raise typer.Exit(exit_error.exit_code)


def _show(value: Any, text: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        say(text)
