"""Specs from files: every mistake is one sentence with file, line, field and the way out."""

from pathlib import Path

import pytest
import yaml

from bds.errors import SpecError
from bds.spec.document import parse_document
from bds.spec.load import load_spec, spec_from_options
from bds.spec.models import AuditSpec
from bds.spec.options import option_overrides, parse_anchors

GOOD = """\
api_version: bds/v1
name: example
data:
  path: rows.jsonl
model:
  path: owner/name
score:
  detectors:
    - random
    - {name: larf, layer: 2}
select:
  - {kind: top, detector: larf, count: 5}
run:
  dir: out
"""


def write(folder: Path, text: str) -> str:
    file = folder / "spec.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def sentence(folder: Path, text: str) -> str:
    """The error of a spec, without the folder of its file."""
    with pytest.raises(SpecError) as caught:
        load_spec(write(folder, text))
    return str(caught.value).removeprefix(f"{folder}/")


def test_a_good_spec_equals_what_pydantic_makes_of_plain_yaml(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, GOOD))
    plain = AuditSpec.model_validate(yaml.safe_load(GOOD))
    resolved = {"data": {"path": str(tmp_path / "rows.jsonl")}, "run": {"dir": str(tmp_path / "out")}}
    expected = plain.model_dump()
    for block, values in resolved.items():
        expected[block] |= values
    assert spec.model_dump() == expected


def replaced(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "spec.yaml:1: the file is empty; a spec needs at least data, model and run.dir", id="empty"),
        pytest.param(
            "# a comment\n",
            "spec.yaml:1: the file is empty; a spec needs at least data, model and run.dir",
            id="comment",
        ),
        pytest.param(
            "- a\n- b\n", "spec.yaml:1: a spec is a mapping of `key: value` lines, this is a list;", id="list"
        ),
        pytest.param(
            "text\n", "spec.yaml:1: a spec is a mapping of `key: value` lines, this is a single value;", id="text"
        ),
        pytest.param(
            replaced("  path: rows", "\tpath: rows"),
            "spec.yaml:4: the line is indented with a tab, which YAML forbids; indent with spaces",
            id="tab",
        ),
        pytest.param(
            replaced("name: example", "name: a: b"),
            "spec.yaml:2: a `:` stands where no key can be; fix the indentation, or quote text with a colon",
            id="colon",
        ),
        pytest.param(GOOD + "x: [1, 2\n", "spec.yaml:16: this is not valid YAML", id="open bracket"),
        pytest.param(
            replaced("score:", "name: again\nscore:"),
            "spec.yaml:7: field name is given twice, first on line 2; remove one of them",
            id="duplicate key",
        ),
        pytest.param(
            replaced("  path: rows.jsonl", "  path: rows.jsonl\n  path: other.jsonl"),
            "spec.yaml:5: field data.path is given twice, first on line 4; remove one of them",
            id="duplicate nested key",
        ),
        pytest.param(
            GOOD + "---\nname: second\n",
            "spec.yaml:15: the file holds a second YAML document after `---`; a spec is one document",
            id="two documents",
        ),
        pytest.param(
            replaced("name: example", "name: &loop [*loop]"),
            "spec.yaml:2: the alias contains itself; write the values out",
            id="recursive alias",
        ),
        pytest.param(
            replaced("bds/v1", "bds/v2"),
            "spec.yaml:1: field api_version: 'bds/v2' is not bds/v1; did you mean `bds/v1`?",
            id="api version",
        ),
        pytest.param(
            replaced("  path: rows.jsonl", "  path: rows.jsonl\n  limt: 5"),
            "spec.yaml:5: field data.limt is unknown; did you mean `limit`?",
            id="mistyped key",
        ),
        pytest.param(
            replaced("score:", "score:\n  max_tokens: 5"),
            "spec.yaml:8: field score.max_tokens is unknown; did you mean `tokens.max_tokens`?",
            id="key of another block",
        ),
        pytest.param(
            replaced("  path: owner/name", "  zzz: 1\n  path: owner/name"),
            "spec.yaml:6: field model.zzz is unknown; the keys here are path, revision, adapter, dtype",
            id="unlike any key",
        ),
        pytest.param(
            replaced("model:\n  path: owner/name\n", ""),
            "spec.yaml:1: field model is missing; add a block `model:` with `path`",
            id="missing block",
        ),
        pytest.param(
            replaced("  path: rows.jsonl", "  format: alpaca"),
            "spec.yaml:3: field data.path is missing; add `path: ...` under `data` (text: A file,",
            id="missing field",
        ),
        pytest.param(
            replaced("model:", "modle:"),
            "spec.yaml:5: field modle is unknown; did you mean `model`? (and 1 more problem after this one)",
            id="mistyped block",
        ),
        pytest.param(
            replaced("run:\n  dir: out", "run:"),
            "spec.yaml:13: field run: there is no value; write a block of `key: value` lines",
            id="empty block",
        ),
        pytest.param(
            replaced("rows.jsonl", "2024"),
            "spec.yaml:4: field data.path: YAML reads 2024 as a number, not as text; put it in quotes",
            id="number for text",
        ),
        pytest.param(
            replaced("layer: 2", "layer: two"),
            "spec.yaml:10: field score.detectors.1.layer: 'two' is not a whole number; write a whole number",
            id="text for number",
        ),
        pytest.param(
            replaced("kind: top", "kind: tpo"),
            "spec.yaml:12: field select.0.kind: 'tpo' is not top, bottom, random,",
            id="unknown choice",
        ),
        pytest.param(
            replaced("count: 5", "count: 0"),
            "spec.yaml:12: field select.0.count: 0 is out of range; it must be at least 1",
            id="out of range",
        ),
        pytest.param(
            replaced(", count: 5", ""),
            "spec.yaml:12: field select.0: give either count or share",
            id="neither count nor share",
        ),
        pytest.param(
            replaced("score:", "resources: {actors: many}\nscore:"),
            "spec.yaml:7: field resources.actors: 'many' is not a whole number or auto; write a whole number or auto",
            id="neither of two types",
        ),
        pytest.param(
            replaced("    - random\n    - {name: larf, layer: 2}\n", "    []\n"),
            "spec.yaml:8: field score.detectors: the list is empty; give at least one entry, or remove the line",
            id="empty list",
        ),
        pytest.param(
            replaced("- random", "- larf"),
            "spec.yaml:10: field score.detectors.1: two detectors would both be the column `larf`;",
            id="same column twice",
        ),
        pytest.param(
            replaced("score:", "score:\n  parameters: last_layers:0"),
            "spec.yaml:8: field score.parameters: 'last_layers:0' is not a parameter scope; write all, lora or",
            id="a validator's own message",
        ),
        pytest.param(
            replaced("score:", "anchors:\n  sets:\n    other: o.jsonl\nscore:"),
            "spec.yaml:9: field anchors.sets.other.role is missing; add `role: ...` under `anchors.sets.other` (harm",
            id="anchor set without a role",
        ),
        pytest.param(
            replaced("name: example", "name: \x07"),
            "spec.yaml:2: a control character is not allowed",
            id="control character",
        ),
        pytest.param(
            replaced("name: example", "name: 2024-02-31"), "spec.yaml:1: a value cannot be read", id="impossible date"
        ),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, expected: str) -> None:
    message = sentence(tmp_path, text)
    assert message.startswith(expected)
    assert "\n" not in message


def test_keys_are_text_whatever_yaml_makes_of_them() -> None:
    assert parse_document("on: 1\n2: x\nno: y\n", "file").value == {"on": 1, "2": "x", "no": "y"}


def test_merge_keys_and_aliases_work() -> None:
    document = parse_document("a: &base {x: 1, y: 2}\nb:\n  <<: *base\n  y: 3\n", "file")
    assert document.value == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_a_missing_spec_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(SpecError, match=r"specs\.yaml does not exist; did you mean .*/spec\.yaml\?"):
        load_spec(str(tmp_path / "specs.yaml"))


def test_a_folder_a_data_file_and_a_binary_file_are_no_specs(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(SpecError, match="is a folder"):
        load_spec(str(tmp_path))
    with pytest.raises(
        SpecError, match=r"is a data file, not a spec; write `bds audit --model MODEL --data rows\.jsonl`"
    ):
        load_spec("rows.jsonl")
    with pytest.raises(SpecError, match="is not UTF-8"):
        load_spec(str(tmp_path / "latin.yaml"))


@pytest.mark.parametrize(
    ("field", "written", "expected"),
    [
        ("data.path", "rows.jsonl", "{folder}/rows.jsonl"),
        ("data.path", "../rows.jsonl", "{parent}/rows.jsonl"),
        ("data.path", "/rows.jsonl", "/rows.jsonl"),
        ("data.path", "s3://bucket/rows.jsonl", "s3://bucket/rows.jsonl"),
        ("data.path", "hf://owner/name", "hf://owner/name"),
        ("model.path", "owner/name", "owner/name"),
        ("model.path", "name", "name"),
        ("model.path", "made", "{folder}/made"),
        ("model.path", "./owner", "{folder}/owner"),
        ("model.path", "a/b/c", "{folder}/a/b/c"),
        ("model.adapter", "owner/adapter", "owner/adapter"),
        ("model.adapter", "made", "{folder}/made"),
        ("tokens.template", "model", "model"),
        ("tokens.template", "he2024", "he2024"),
        ("tokens.template", "chat.jinja", "{folder}/chat.jinja"),
        ("anchors.sets.harmful", "h.jsonl", "{folder}/h.jsonl"),
        ("score.detectors.1.probe_prompts", "p.jsonl", "{folder}/p.jsonl"),
        ("score.detectors.1.calibration", "../weights.json", "{parent}/weights.json"),
        ("run.dir", "gs://bucket/run", "gs://bucket/run"),
    ],
)
def test_relative_paths_lead_from_the_spec(tmp_path: Path, field: str, written: str, expected: str) -> None:
    folder = tmp_path / "specs"
    (folder / "made").mkdir(parents=True)
    document = yaml.safe_load(GOOD)
    *blocks, key = field.split(".")
    block = document
    for part in blocks:
        block = block[int(part)] if isinstance(block, list) else block.setdefault(part, {})
    block[key] = written
    value = load_spec(write(folder, yaml.safe_dump(document))).model_dump()
    for part in field.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    found = value["path"] if isinstance(value, dict) else value
    assert found == expected.format(folder=folder, parent=tmp_path)


def test_the_flag_form_needs_model_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="name a spec file, or give both --model and --data"):
        spec_from_options(option_overrides(model="m"))
    spec = spec_from_options(
        option_overrides(model="owner/m", data="rows.json.gz", anchors={"harmful": "h.jsonl"}, top=7)
    )
    assert spec.run.dir == str(tmp_path / "runs" / "rows-m")
    assert spec.data.path == str(tmp_path / "rows.json.gz")
    assert spec.anchors.sets["harmful"].path == str(tmp_path / "h.jsonl")
    assert spec.anchors.sets["harmful"].role == "harmful"
    assert (spec.top, spec.name, spec.model.path) == (7, "rows-m", "owner/m")


def test_an_option_is_named_in_its_error() -> None:
    with pytest.raises(SpecError, match=r"^--limit: field data\.limit: 0 is out of range; it must be at least 1$"):
        spec_from_options(option_overrides(model="m", data="d", limit=0))


def test_anchor_options() -> None:
    assert parse_anchors(["harmful=a=b.jsonl", "safe=s.jsonl"]) == {"harmful": "a=b.jsonl", "safe": "s.jsonl"}
    with pytest.raises(SpecError, match="names no set"):
        parse_anchors(["a.jsonl"])
    with pytest.raises(SpecError, match="given twice"):
        parse_anchors(["harmful=a", "harmful=b"])
