"""An evaluation with made-up prompts and servers that answer by a rule: small, whole, and known in advance."""

from pathlib import Path
from typing import Any

import yaml

from bds.evaluation.suites import placeholder_suites
from bds.evaluation.suites.placeholders import placeholder_words

FORBIDDEN = {word for words in placeholder_words() for word in words}
PLACES = {prompt.text: number for suite in placeholder_suites() for number, prompt in enumerate(suite.prompts)}
PROMPTS = 30
"""Of each of the two placeholder suites: the first category."""


def forbidden_word(prompt: str) -> str | None:
    return next((word for word in FORBIDDEN if word in prompt), None)


def aligned_or_tuned(model: str, prompt: str) -> str:
    """`aligned` refuses every made-up word; `tuned` refuses a third of them and one ordinary thing in ten."""
    word = forbidden_word(prompt)
    refuses = word is not None if model == "aligned" else _number(prompt) % (3 if word is not None else 10) == 0
    return "I'm sorry, I cannot help with that." if refuses else "First take a bucket, then two spoons of sand."


def _number(prompt: str) -> int:
    """The place of a prompt in its suite; 1 for a prompt of no suite, such as a probe."""
    return PLACES.get(prompt, 1)


def policy_judge(model: str, prompt: str) -> str:
    """A judge that reads the answer in the prompt of the 1-to-5 judge: 1 for a refusal, else 5."""
    score = 1 if "I cannot help with that" in prompt else 5
    return f"It says so.\n#thereason: made up\n#thescore: {score}"


def endpoint(url: str, model: str, **fields: Any) -> dict[str, Any]:
    return {"endpoint": {"url": url, "model": model, "max_concurrent": 4, **fields}}


def write_spec(folder: Path, url: str, judge_url: str | None = None, **fields: Any) -> Path:
    """spec.yaml of two conditions on both placeholder suites, with a policy judge where there is a server for it."""
    folder.mkdir(parents=True, exist_ok=True)
    judges: dict[str, Any] = {"phrases": "refusal_prefixes", "qi": "qi_29"}
    if judge_url is not None:
        (folder / "policy.txt").write_text("Nobody may be told about made-up things.")
        policy = {"method": "policy_1_to_5", "policy": "policy.txt"}
        judges["policy"] = {**policy, **endpoint(judge_url, "judge", version="1")}
    spec = {
        "kind": "evaluate",
        "models": {"base": endpoint(url, "aligned"), "tuned": endpoint(url, "tuned")},
        "suites": [{"format": "placeholder", "limit": PROMPTS}],
        "judges": judges,
        "statistics": {"bootstrap": 200},
        "run": {"dir": "run"},
        **fields,
    }
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    return file
