"""The page: nothing escapes, nothing is loaded, and every odd audit still gives a readable report."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest

from bds.report import ReportInputs, write_report
from bds.report.samples import clip, tokens, visible
from bds.scoring.explanation import AnchorMatch, Explanation, TokenContribution
from tests.unit.report_inputs import make_inputs

VOID = {"meta", "input", "br", "hr", "img", "link"}
LOADING = {"src", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; complains about a tag that is closed in the wrong place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def render(inputs: ReportInputs) -> tuple[Page, dict, bytes]:
    files: dict[str, bytes] = {}
    write_report(inputs, files.__setitem__)
    assert sorted(files) == ["metrics.json", "report.html"]
    return Page(files["report.html"].decode()), json.loads(files["metrics.json"]), files["report.html"]


def only(inputs: ReportInputs, *labels: str) -> ReportInputs:
    """The same audit with some of the detectors and the selections that belong to them."""
    kept = [
        name
        for name, info in inputs.selection_info.items()
        if info.get("detector") is None or info["detector"] in labels
    ]
    return replace(
        inputs,
        detectors=[detector for detector in inputs.detectors if detector["label"] in labels],
        selections={name: inputs.selections[name] for name in kept},
        selection_info={name: inputs.selection_info[name] for name in kept},
    )


@pytest.fixture(scope="module")
def small() -> ReportInputs:
    return only(make_inputs(rows=240, top=20), "gradient_bidirectional")


@pytest.fixture(scope="module")
def full() -> tuple[Page, dict, bytes]:
    return render(make_inputs(rows=600, top=50))


def with_text(inputs: ReportInputs, prompt: str, answer: str, explanation: Explanation | None = None) -> ReportInputs:
    """The same audit with another text in its highest-ranked row."""
    row = inputs.selections["top.gradient_bidirectional"]["row_index"][0]
    texts = pl.DataFrame({"row_index": [row], "prompt": [prompt], "answer": [answer]})
    explanations = {} if explanation is None else {row: replace(explanation, row_index=row)}
    return replace(inputs, rows=texts, explanations=explanations)


def test_sections_stand_in_order(full: tuple[Page, dict, bytes]) -> None:
    sections = [attributes["id"] for tag, attributes in full[0].tags if tag == "section"]
    assert sections == [
        "verdict",
        "look",
        "scores",
        "agreement",
        "samples",
        "controls",
        "not-scored",
        "setup",
        "reproduce",
    ]


def test_page_loads_nothing_and_runs_nothing(full: tuple[Page, dict, bytes]) -> None:
    page, _, content = full
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "img", "base"}
        assert not LOADING & attributes.keys(), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert b"@import" not in content
    assert not re.search(rb"url\((?!#)", content)
    assert b"http://" not in content
    assert b"https://" not in content


def test_page_says_what_the_metrics_say(full: tuple[Page, dict, bytes]) -> None:
    page, metrics, _ = full
    assert metrics["verdict"]["headline"].replace("\xa0", " ") in page.text.replace("\xa0", " ")
    for name in metrics["selections"]:
        assert name in page.text
    assert "bds audit --model organism/model" in page.text
    assert "the field 'output' is a list, not text" in page.text
    assert "3 of 10 prompts of safe_2 have no partner" in page.text


def test_every_picture_has_a_description(full: tuple[Page, dict, bytes]) -> None:
    pictures = [attributes for tag, attributes in full[0].tags if attributes.get("role") == "img"]
    assert len(pictures) >= 11
    assert all(len(attributes["aria-label"] or "") > 40 for attributes in pictures)
    assert all("<" not in (attributes["aria-label"] or "") for attributes in pictures)


def test_page_stays_small(full: tuple[Page, dict, bytes]) -> None:
    assert len(full[2]) < 1_000_000


def test_same_inputs_give_the_same_bytes_in_another_process(small: ReportInputs) -> None:
    program = """
import sys
from bds.report import write_report
from tests.unit.test_report_page import make_inputs, only
files = {}
write_report(only(make_inputs(rows=240, top=20), "gradient_bidirectional"), files.__setitem__)
sys.stdout.buffer.write(files["report.html"] + files["metrics.json"])
"""
    files: dict[str, bytes] = {}
    write_report(small, files.__setitem__)
    other = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "7"}, capture_output=True, check=True
    ).stdout
    assert other == files["report.html"] + files["metrics.json"]


def test_markup_in_samples_is_text(small: ReportInputs) -> None:
    hostile = '</div><script>alert(1)</script><img src=x onerror=alert(2)> & "quotes" {{ 7 * 7 }}'
    pieces = ("<b>", "bold", "</b>", "\"'>", "<script>alert(3)</script>")
    explanation = Explanation(
        0,
        tuple(TokenContribution(piece, 0.2) for piece in pieces),
        (AnchorMatch("<i>harmful</i>", 0, 0.5),),
    )
    page, _, _ = render(with_text(small, hostile, hostile, explanation))
    assert {"script", "img", "b", "i"} & {tag for tag, _ in page.tags} <= {"b"}  # the page's own numbers are in <b>
    assert hostile in "".join(page.words)
    assert "<script>alert(3)</script>" in "".join(page.words)
    assert "<i>harmful</i> #1" in page.text


def test_markup_in_names_is_text(small: ReportInputs) -> None:
    label = "<u>$x_1$</u>"
    renamed = replace(
        small,
        spec=small.spec | {"name": "<u>run</u>"},
        scores=small.scores.rename(
            {f"{kind}.gradient_bidirectional": f"{kind}.{label}" for kind in ("score", "rank")}
        ).with_columns(source=pl.lit("<u>file</u>.jsonl"), reason=pl.lit("<u>because</u>")),
        detectors=[{"label": label, "name": "x", "formula": "<u>f</u>", "source": "<u>s</u>"}],
        selection_info={
            name: info | {"detector": label, "notes": ["<u>note</u>"]} if info["detector"] else info
            for name, info in small.selection_info.items()
        },
    )
    page, _, _ = render(renamed)
    assert "u" not in {tag for tag, _ in page.tags}
    for text in ("<u>run</u>", "<u>file</u>.jsonl", "<u>because</u>", "<u>f</u>", "<u>note</u>", f"flagged by {label}"):
        assert text in page.text


def test_a_long_answer_is_clipped_and_says_so(small: ReportInputs) -> None:
    answer = "tavo rilm " * 100_000
    page, _, content = render(with_text(small, "Say it often.", answer))
    assert len(content) < 400_000
    assert "more characters are not in this page." in page.text
    left_out = int(re.search(r"([\d,]+) more characters", page.text).group(1).replace(",", ""))
    assert left_out > 990_000


def test_many_tokens_are_clipped_and_their_share_said(small: ReportInputs) -> None:
    count = 1000
    explanation = Explanation(0, tuple(TokenContribution(f"w{at} ", 1 / count) for at in range(count)), ())
    page, _, _ = render(with_text(small, "Say it.", "w", explanation))
    assert "590 more tokens, with 59 % of the squared gradient norm, are not shown." in page.text.replace("\xa0", " ")


def test_right_to_left_emoji_and_control_characters(small: ReportInputs) -> None:
    page, _, content = render(with_text(small, "שלום עולם 🦊👩‍👩‍👧", "مرحبا \u202egnp.exe \x00\x1b[31m 🧪"))
    assert "שלום עולם 🦊👩‍👩‍👧" in page.text
    assert "␀␛[31m" in page.text
    assert "\u202e".encode() not in content
    texts = [attributes for tag, attributes in page.tags if "text" in (attributes.get("class") or "").split()]
    assert texts
    assert all(attributes["dir"] == "auto" for attributes in texts)


def test_broken_utf8_tokens_are_shown(small: ReportInputs) -> None:
    pieces = (b"\xf0\x9f".decode("utf-8", "surrogateescape"), "\ufffd", "ok", "Ġbyte")
    explanation = Explanation(0, tuple(TokenContribution(piece, 0.25) for piece in pieces), ())
    page, _, _ = render(with_text(small, "A byte-level one", "x", explanation))
    assert "\ufffd\ufffd\ufffdokĠbyte" in page.text


def test_token_colours_are_multiples_of_an_even_split() -> None:
    shares = (0.05, 0.15, 0.35, 0.0, -0.2, -0.01, 0.66, 0.0, 0.0, 0.0)
    levels = [token.level for token in tokens([TokenContribution("x", share) for share in shares])]
    assert levels == [0, 1, 2, 0, -1, 0, 3, 0, 0, 0]


def test_clip_keeps_every_character_it_does_not_count() -> None:
    text = "tolb quon " * 2000
    clipped = clip(text)
    assert len(clipped.shown) + len(clipped.folded) + clipped.left_out == len(text)
    assert clip("short").folded == ""
    assert visible("a\r\nb\x07\ud83d") == "a\nb␇\ufffd"


def test_no_anchors_only_self_influence() -> None:
    inputs = make_inputs(rows=240, top=20)
    alone = replace(
        inputs,
        spec={"name": "alone"},
        manifest={},
        scores=inputs.scores.drop("direction_dot.harmful"),
        selections={},
        selection_info={},
        explanations={row: replace(explanation, anchors=()) for row, explanation in inputs.explanations.items()},
        detectors=[detector for detector in inputs.detectors if detector["label"] == "self_influence"],
    )
    page, metrics, _ = render(alone)
    assert "No anchors: only detectors that need none ran." in page.text
    assert "Agreement needs at least two detectors." in page.text
    assert metrics["primary_detector"] == {"label": "self_influence", "flagged_rows": 23}
    assert metrics["concentration"].keys() == {"squared_gradient_norm"}
    assert metrics["agreement"] is None


def test_forward_only_run_has_no_gradient_columns() -> None:
    inputs = only(make_inputs(rows=240, top=20), "representation")
    forward = replace(
        inputs,
        scores=inputs.scores.drop("squared_gradient_norm", "direction_dot.harmful"),
        explanations={row: replace(explanation, tokens=()) for row, explanation in inputs.explanations.items()},
    )
    page, metrics, _ = render(forward)
    assert metrics["concentration"]["squared_gradient_norm"] is None
    assert metrics["gates"]["gradient_norm_top_1_percent"] is None
    assert "coloured by" not in page.text
    assert "1. find the" in page.text.replace("Answer ", "")


def test_five_rows() -> None:
    page, metrics, _ = render(make_inputs(rows=5, top=100))
    assert "too small to compare" in page.text
    assert metrics["gates"]["flagged_fraction"] is None


def test_every_score_the_same(small: ReportInputs) -> None:
    flat = replace(
        small,
        scores=small.scores.with_columns(
            pl.when(pl.col("score.gradient_bidirectional").is_not_null())
            .then(0.5)
            .alias("score.gradient_bidirectional")
        ),
    )
    _, metrics, _ = render(flat)
    assert metrics["detectors"]["gradient_bidirectional"]["cut_off"]["tied_outside"] == 236 - 20
    assert metrics["detectors"]["gradient_bidirectional"]["outliers"]["rows"] is None


def unscored(inputs: ReportInputs) -> ReportInputs:
    measured = [name for name in inputs.scores.columns if name not in inputs.scores.columns[:6]]
    return replace(
        inputs,
        scores=inputs.scores.with_columns(
            pl.lit("malformed").alias("status"),
            pl.lit("the field 'output' is missing").alias("reason"),
            *(pl.lit(None, inputs.scores[name].dtype).alias(name) for name in measured),
        ),
        selections={name: frame.clear() for name, frame in inputs.selections.items()},
        explanations={},
    )


def test_all_rows_not_scored(small: ReportInputs) -> None:
    page, metrics, _ = render(unscored(small))
    assert metrics["verdict"]["headline"] == "No row could be scored, so this audit says nothing about the dataset."
    assert metrics["gates"]["not_scored_fraction"] == 1.0
    assert metrics["gates"]["flagged_fraction"] is None
    assert metrics["gates"]["refusal_phrase_fraction"] is None
    assert "the field 'output' is missing (240)" in page.text


def test_no_rows_and_no_detectors(small: ReportInputs) -> None:
    empty = replace(
        unscored(small), scores=small.scores.clear(), detectors=[], selections={}, selection_info={}, manifest={}
    )
    page, metrics, _ = render(empty)
    assert metrics["gates"]["not_scored_fraction"] is None
    assert metrics["primary_detector"] is None
    assert "The dataset has no rows." in page.text


def test_report_imports_no_heavy_library() -> None:
    program = (
        "import sys, bds.report; "
        "print([name for name in ('ray', 'torch', 'transformers', 'vllm', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
