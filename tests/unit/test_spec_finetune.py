"""Fine-tune specs: short forms, recipe files, overrides, and every mistake as one sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bds.errors import SpecError
from bds.spec.document import Document
from bds.spec.finetune import FinetuneSpec
from bds.spec.identity import result_fields, spec_diff, spec_hash
from bds.spec.kinds import KINDS, kind_named, kind_of
from bds.spec.load import build_finetune_spec, finetune_spec_from_options, load_any_spec, load_finetune_spec, load_spec
from bds.spec.options import finetune_overrides
from tests.unit.small_audit import write_small_audit
from tests.unit.small_finetune import RECIPE, write_recipe

GOOD = """\
kind: finetune
models:
  base: owner/name
datasets:
  rows: rows.jsonl
recipes:
  plain: recipe.yaml
  fast: {from: recipe.yaml, learning_rate: 0.01, lora: {rank: 2}}
  own: {learning_rate: 0.1, epochs: 1, batch: 5}
mitigations:
  none: none
  slow: ema
  cut: {method: low_lr, factor: 0.5}
seeds: [1, 2]
then:
  - {data: more.jsonl, recipe: recipe.yaml}
run:
  dir: out
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_recipe(tmp_path / "recipe.yaml")
    return tmp_path


def load(folder: Path, text: str = GOOD, overrides: tuple[str, ...] = ()) -> FinetuneSpec:
    (folder / "spec.yaml").write_text(text, encoding="utf-8")
    return load_finetune_spec(str(folder / "spec.yaml"), overrides)


def sentence(folder: Path, text: str, overrides: tuple[str, ...] = ()) -> str:
    """The error of a spec, without the folder of its files."""
    with pytest.raises(SpecError) as caught:
        load(folder, text, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


def replaced(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_good_spec_equals_what_is_written_out_in_full(folder: Path) -> None:
    recipe = dict(RECIPE)
    expected = FinetuneSpec.model_validate(
        {
            "models": {"base": {"path": "owner/name"}},
            "datasets": {"rows": {"path": str(folder / "rows.jsonl")}},
            "recipes": {
                "plain": recipe,
                "fast": {**recipe, "learning_rate": 0.01, "lora": {"rank": 2, "alpha": 32.0}},
                "own": {"learning_rate": 0.1, "epochs": 1, "batch": 5},
            },
            "mitigations": {
                "none": {"method": "none"},
                "slow": {"method": "ema", "decay": 0.95},
                "cut": {"method": "low_lr", "factor": 0.5},
            },
            "seeds": [1, 2],
            "then": [{"data": {"path": str(folder / "more.jsonl")}, "recipe": recipe}],
            "run": {"dir": str(folder / "out")},
        }
    )
    assert load(folder) == expected


def test_lists_take_their_names_from_the_last_part_of_each_entry(folder: Path) -> None:
    text = """\
models: [owner/Llama-2-7b-chat-hf, ./local/model/]
datasets: [a/alpaca.json.gz, hf://owner/gsm8k, "my rows.csv"]
recipes: [recipe.yaml]
mitigations: [none, ema]
run: {dir: out}
"""
    spec = load(folder, text)
    assert {name: model.path for name, model in spec.models.items()} == {
        "Llama-2-7b-chat-hf": "owner/Llama-2-7b-chat-hf",
        "model": str(folder / "local" / "model"),
    }
    assert {name: data.path for name, data in spec.datasets.items()} == {
        "alpaca": str(folder / "a" / "alpaca.json.gz"),
        "gsm8k": "hf://owner/gsm8k",
        "my_rows": str(folder / "my rows.csv"),
    }
    assert spec.recipes["recipe"].learning_rate == 1e-4
    assert {name: mitigation.method for name, mitigation in spec.mitigations.items()} == {"none": "none", "ema": "ema"}


MIX = "{path: rows.jsonl, mix: {into: benign.jsonl, share: 0.1}}"


@pytest.mark.parametrize(
    ("setting", "place", "expected"),
    [
        ("models.base=made", "models.base.path", "{folder}/made"),
        ("models.base=owner/other", "models.base.path", "owner/other"),
        ("models.base.adapter=made", "models.base.adapter", "{folder}/made"),
        ("models.base.base=../made", "models.base.base", "{parent}/made"),
        ("datasets.rows=s3://bucket/x.jsonl", "datasets.rows.path", "s3://bucket/x.jsonl"),
        ("datasets.rows={audit: run, selection: top}", "datasets.rows.audit", "{folder}/run"),
        (f"datasets.rows={MIX}", "datasets.rows.mix.into.path", "{folder}/benign.jsonl"),
        ("then.0.data={audit: run, selection: top}", "then.0.data.audit", "{folder}/run"),
        ("tokens.template=chat.jinja", "tokens.template", "{folder}/chat.jinja"),
        ("tokens.template=he2024", "tokens.template", "he2024"),
        ("mitigations.slow={method: filter, audit: run}", "mitigations.slow.audit", "{folder}/run"),
        ("mitigations.slow={method: lisa, refusals: r.jsonl}", "mitigations.slow.refusals", "{folder}/r.jsonl"),
        ("mitigations.slow={method: loss_mask, harmful: h, safe: s}", "mitigations.slow.harmful", "{folder}/h"),
        ("mitigations.slow={method: loss_mask, harmful: h, safe: s}", "mitigations.slow.safe", "{folder}/s"),
        ("run.dir=gs://bucket/run", "run.dir", "gs://bucket/run"),
    ],
)
def test_relative_paths_lead_from_the_spec_or_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, setting: str, place: str, expected: str
) -> None:
    here = folder / "here"
    for base in (folder, here):
        (base / "made").mkdir(parents=True)
    monkeypatch.chdir(here)

    def found(spec: FinetuneSpec) -> Any:
        value: Any = spec.model_dump()
        for part in place.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        return value

    name, _, written = setting.partition("=")
    document = yaml.safe_load(GOOD)
    target: Any = document
    *blocks, key = name.split(".")
    for part in blocks:
        child = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
        if isinstance(child, str):
            child = target[part] = {"path": child}
        target = child
    target[key] = yaml.safe_load(written)
    in_file = build_finetune_spec(Document("spec", document), (), folder=folder)
    assert found(in_file) == expected.format(folder=folder, parent=folder.parent)
    by_option = load(folder, overrides=(setting,))
    assert found(by_option) == expected.format(folder=here, parent=folder)


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("recipes.plain.learning_rate=1e-3", ("recipes", "plain", "learning_rate"), 1e-3),
        ("recipes.fast.lora.alpha=8", ("recipes", "fast", "lora"), {"rank": 2, "alpha": 8.0}),
        ("then.0.recipe.epochs=7", ("then", 0, "recipe", "epochs"), 7),
        ("then.0.data.limit=3", ("then", 0, "data", "limit"), 3),
        ("datasets.rows.limit=3", ("datasets", "rows", "limit"), 3),
        ("models.base.revision=main", ("models", "base", "revision"), "main"),
        ("mitigations.slow.decay=0.5", ("mitigations", "slow", "decay"), 0.5),
        ("datasets.2024=x.jsonl", ("datasets", "2024", "limit"), None),
    ],
)
def test_an_override_reaches_into_a_short_form(
    folder: Path, setting: str, place: tuple[str | int, ...], value: Any
) -> None:
    found: Any = load(folder, overrides=(setting,)).model_dump()
    for part in place:
        found = found[part]
    assert (found | value if isinstance(value, dict) else found) == (found if isinstance(value, dict) else value)


def test_a_recipe_file_after_set_leads_from_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = folder / "here"
    here.mkdir()
    write_recipe(here / "recipe.yaml", epochs=9)
    monkeypatch.chdir(here)
    spec = load(folder, overrides=("recipes.plain=recipe.yaml", "recipes.fast.epochs=4"))
    assert (spec.recipes["plain"].epochs, spec.recipes["fast"].epochs) == (9, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "spec.yaml:1: the file is empty; a spec needs at least models, datasets, recipes and run.dir"),
        pytest.param(
            replaced("seeds:", "seds:"), "spec.yaml:14: field seds is unknown; did you mean `seeds`?", id="key"
        ),
        pytest.param(
            replaced("kind: finetune", "kind: finetun"),
            "spec.yaml:1: field kind: 'finetun' is no kind of spec; did you mean `finetune`?",
            id="kind",
        ),
        pytest.param(
            replaced("own: {", "own: {lerning_rate: 1, "),
            "spec.yaml:9: field recipes.own.lerning_rate is unknown; did you mean `learning_rate`?",
            id="key of a recipe",
        ),
        pytest.param(
            replaced("fast: {", "fast: {epoch: 1, "),
            "spec.yaml:8: field recipes.fast.epoch is unknown; did you mean `epochs`?",
            id="key beside from",
        ),
        pytest.param(
            replaced("own: {learning_rate: 0.1, ", "own: {"),
            "spec.yaml:9: field recipes.own.learning_rate is missing; add `learning_rate: ...` under `recipes.own` "
            "(a number)",
            id="no learning rate",
        ),
        pytest.param(
            replaced("run:", "learning_rate: 1\nrun:"),
            "spec.yaml:17: field learning_rate is unknown; did you mean `recipes.NAME.learning_rate or "
            "mitigations.NAME.learning_rate`?",
            id="key of a recipe at the root",
        ),
        pytest.param(
            replaced("slow: ema", "slow: emma"),
            "spec.yaml:12: field mitigations.slow.method: 'emma' is not none, filter, safety_mix, two_stage_refresh, "
            "prompt_template, constrained_sft, lora, low_lr, ema, safe_lora, lisa or loss_mask; did you mean `ema`?",
            id="unknown mitigation",
        ),
        pytest.param(
            replaced("slow: ema", "slow: {method: ema, deca: 0.5}"),
            "spec.yaml:12: field mitigations.slow.deca is unknown; did you mean `decay`?",
            id="key of a mitigation",
        ),
        pytest.param(
            replaced("slow: ema", "slow: {method: ema, rho: 0.5}"),
            "spec.yaml:12: field mitigations.slow.rho is unknown; the keys here are method, decay",
            id="key of another mitigation",
        ),
        pytest.param(
            replaced("factor: 0.5", "factor: 2"),
            "spec.yaml:13: field mitigations.cut.factor: 2 is out of range; it must be less than 1",
            id="option of a mitigation",
        ),
        pytest.param(
            replaced("slow: ema", "slow: {decay: 0.5}"),
            "spec.yaml:12: field mitigations.slow.method is missing; add `method: ...` under `mitigations.slow` (none,",
            id="no method",
        ),
        pytest.param(
            replaced("slow: ema", "slow:"),
            "spec.yaml:12: field mitigations.slow: there is no value; write a block of `key: value` lines",
            id="empty mitigation",
        ),
        pytest.param(
            replaced("slow: ema", "slow: filter"),
            "spec.yaml:12: field mitigations.slow.audit is missing; add `audit: ...` under `mitigations.slow` (text: "
            "The run directory of an audit that scored these rows)",
            id="mitigation without what it needs",
        ),
        pytest.param(
            replaced("  base: owner/name", "  a/b: owner/name"),
            "spec.yaml:2: field models: 'a/b' cannot name a folder; use letters, digits and . _ - + and no leading dot",
            id="name",
        ),
        pytest.param(
            replaced("models:\n  base: owner/name", "models: {}"),
            "spec.yaml:2: field models: the block is empty; give at least one entry",
            id="no models",
        ),
        pytest.param(
            replaced("rows: rows.jsonl", "rows: {format: alpaca}"),
            "spec.yaml:5: field datasets.rows: give either path, or audit and selection",
            id="dataset without a source",
        ),
        pytest.param(
            replaced("rows: rows.jsonl", "rows: {audit: run}"),
            "spec.yaml:5: field datasets.rows: audit and selection go together",
            id="audit without a selection",
        ),
        pytest.param(
            replaced("rows: rows.jsonl", "rows: {audit: run, selection: top, format: alpaca}"),
            "spec.yaml:5: field datasets.rows: a selection has the format and columns that the audit read; leave them",
            id="audit with a format",
        ),
        pytest.param(
            replaced("[1, 2]", "[1, 1]"),
            "spec.yaml:14: field seeds: seed 1 is given twice; each seed is a fine-tune of its own, remove one",
            id="seed twice",
        ),
        pytest.param(
            replaced("batch: 5", "batch: 5, betas: [0.9]"),
            "spec.yaml:9: field recipes.own.betas: [0.9] is not a list of 2 numbers; write a list of 2 numbers (Of Ad",
            id="one beta",
        ),
        pytest.param(
            replaced("models:\n  base: owner/name", "models: [a/chat, b/chat]"),
            "spec.yaml:2: field models.1: b/chat would be named `chat`, as a/chat is; write names yourself, as in "
            "`models: {chat: a/chat, chat_2: b/chat}`",
            id="equal stems",
        ),
        pytest.param(
            replaced("models:\n  base: owner/name", "models:\n  - {path: a}"),
            "spec.yaml:2: field models: [{'path': 'a'}] is not a block of `key: value` lines;",
            id="list of blocks",
        ),
        pytest.param(
            replaced("plain: recipe.yaml", "plain: recip.yaml"),
            "spec.yaml:7: field recipes.plain: recipe file recip.yaml does not exist; did you mean recipe.yaml?",
            id="no recipe file",
        ),
        pytest.param(
            replaced("plain: recipe.yaml", "plain: {from: 5}"),
            "spec.yaml:7: field recipes.plain.from: 5 is no path; write the path of a recipe file",
            id="from a number",
        ),
        pytest.param(
            replaced("plain: recipe.yaml", "plain: rows.jsonl"),
            "spec.yaml:7: field recipes.plain: rows.jsonl is a data file, not a recipe; datasets go after `--dataset`",
            id="a dataset for a recipe",
        ),
    ],
)
def test_a_mistake_is_one_sentence(folder: Path, text: str, expected: str) -> None:
    assert sentence(folder, text).startswith(expected)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("epochs: 1\nbatch: 2\n", "bad.yaml:1: field learning_rate is missing; add `learning_rate: ...` (a number)"),
        (
            "learning_rate: 1\nepoch: 1\nbatch: 2\n",
            "bad.yaml:2: field epoch is unknown; did you mean `epochs`? (and 1 more problem after this one)",
        ),
        ("", "bad.yaml:1: the file is empty; a recipe needs at least learning_rate, epochs and batch"),
        (
            "- 1\n",
            "bad.yaml:1: a recipe is a mapping of `key: value` lines, this is a list; it needs at least learning_rate,",
        ),
        (
            "learning_rate: 0\nepochs: 1\nbatch: 2\n",
            "bad.yaml:1: field learning_rate: 0 is out of range; it must be greater than 0.0",
        ),
    ],
)
def test_a_mistake_in_a_recipe_file_names_that_file(folder: Path, recipe: str, expected: str) -> None:
    (folder / "bad.yaml").write_text(recipe)
    assert sentence(folder, replaced("plain: recipe.yaml", "plain: bad.yaml")).startswith(expected)
    assert sentence(folder, replaced("more.jsonl, recipe: recipe", "x, recipe: bad")).startswith(expected)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("recipes.plain.learnin_rate=1", "field recipes.plain.learnin_rate is unknown; did you mean `learning_rate`?"),
        ("recipes.plain=none.yaml", "field recipes.plain: recipe file "),
        ("recipes.plain.epochs=0", "field recipes.plain.epochs: 0 is out of range; it must be at least 1"),
        ("mitigations.slow.rho=1", "field mitigations.slow.rho is unknown; the keys here are method, decay"),
        ("models=[a/x, b/x]", "field models.1: b/x would be named `x`, as a/x is; write names yourself"),
        ("then.first.data=x", "`then` has no `first` in it; an index from 0 stands for a list entry"),
        ("data.path=x", "field data is unknown; did you mean `datasets`?"),
        ("mitigations.slow.zzz=1", "field mitigations.slow.zzz is unknown; the keys here are method, audit,"),
    ],
)
def test_a_mistake_in_an_override_names_it(folder: Path, setting: str, expected: str) -> None:
    assert sentence(folder, GOOD, (setting,)).startswith(f"--set {setting}: {expected}")


def test_each_command_refuses_the_spec_of_the_other(folder: Path) -> None:
    load(folder)
    with pytest.raises(SpecError) as caught:
        load_spec(str(folder / "spec.yaml"))
    path = folder / "spec.yaml"
    assert str(caught.value) == (
        f"{path}:1: this is the spec of fine-tunes, not the spec of an audit; run it with `bds finetune {path}`"
    )
    audit = write_small_audit(folder / "audit")
    with pytest.raises(SpecError) as caught:
        load_finetune_spec(str(audit))
    assert str(caught.value) == (
        f"{audit}:1: this is the spec of an audit, not the spec of fine-tunes; run it with `bds audit {audit}`"
    )
    assert isinstance(load_any_spec(str(path)), FinetuneSpec)
    assert load_any_spec(str(audit)).kind == "audit"
    recipe = folder / "recipe.yaml"
    with pytest.raises(SpecError) as caught:
        load_finetune_spec(str(recipe))
    assert str(caught.value) == (
        f"{recipe}:1: this is a recipe, not the spec of fine-tunes; name it under `recipes` of a spec, or write "
        f"`bds finetune --model MODEL --dataset DATA --recipe {recipe}`"
    )
    with pytest.raises(SpecError, match=r"spec\.yaml:1: this is the spec of an audit, not a recipe; run it with `bds"):
        load(folder, overrides=(f"recipes.plain={audit}",))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"kind": "audit", "models": {}, "recipes": {}}, "audit"),
        ({"models": {}, "recipes": {}}, "finetune"),
        ({"models": {}, "datasets": {}}, "finetune"),
        ({"models": {}, "suites": []}, "evaluate"),
        ({"models": {}}, None),
        ({"modle": {}, "data": {}}, "audit"),
        ({"learning_rate": 1, "epoch": 1}, "recipe"),
        ({"run": {}}, None),
    ],
)
def test_the_kind_of_a_document(value: dict[str, Any], kind: str | None) -> None:
    assert kind_of(Document("spec", value)) is (KINDS[kind] if kind is not None else None)


def test_a_spec_with_options_needs_no_recipe_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "spec.yaml").write_text("run: {dir: out}\n")
    options = finetune_overrides(models=["m"], datasets=["d.jsonl"], recipes=["recipe.yaml"])
    assert load_finetune_spec(str(folder / "spec.yaml"), options).run.dir == str(folder / "out")


def test_options_alone_make_a_spec(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    options = finetune_overrides(
        models=["owner/m", "n"], datasets=["a.json.gz"], recipes=["recipe.yaml"], mitigations=["none", "ema"], seeds=[3]
    )
    spec = finetune_spec_from_options([*options, "recipes.recipe.epochs=5", "mitigations.ema.decay=0.5"])
    assert (spec.name, spec.run.dir) == ("finetune-a-m", str(folder / "runs" / "finetune-a-m"))
    assert (list(spec.models), spec.datasets["a"].path) == (["m", "n"], str(folder / "a.json.gz"))
    assert (spec.recipes["recipe"].epochs, spec.seeds) == (5, [3])
    assert spec.mitigations["ema"].model_dump() == {"method": "ema", "decay": 0.5}
    with pytest.raises(SpecError, match=r"name a spec file, or give --model, --dataset and --recipe$"):
        finetune_spec_from_options(finetune_overrides(models=["m"], datasets=["d"]))
    with pytest.raises(SpecError, match=r"^--dataset: field datasets\.1: b/a\.csv would be named `a`, as a\.json is"):
        finetune_spec_from_options(
            finetune_overrides(models=["m"], datasets=["a.json", "b/a.csv"], recipes=["recipe.yaml"])
        )


def test_what_changes_no_result_keeps_the_hash(folder: Path) -> None:
    spec = load(folder)
    same = load(folder, overrides=("name=x", "resources.workers=4", "run.dir=y", "run.checkpoint_steps=1"))
    assert spec_hash(spec) == spec_hash(same)
    other = load(folder, overrides=("recipes.plain.epochs=9",))
    assert spec_diff(spec, other) == ["recipes.plain.epochs: 2 -> 9"]
    blocks = {name.split(".")[0] for name in result_fields(spec)}
    assert blocks == set(FinetuneSpec.model_fields) - {"kind", "name", "resources", "run"}


def test_the_schema_takes_every_form_that_loading_takes(folder: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = kind_named("finetune").root.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(GOOD), schema)
    lists = {"models": ["a"], "datasets": ["b"], "recipes": ["c.yaml"], "mitigations": ["none"], "run": {"dir": "r"}}
    jsonschema.validate(lists, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**lists, "modles": {}}, schema)
    with pytest.raises(SpecError, match=r"^'recip' is no kind of file that has a schema; did you mean `recipe`\?$"):
        kind_named("recip")
