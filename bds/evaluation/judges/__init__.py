"""Judges: what tells whether an answer refuses or harms, by keywords or by asking a model."""

from bds.evaluation.judges.base import ENDPOINTS, Judge, JudgeOptions, KeywordJudge, RequestKind
from bds.evaluation.judges.prompts import read_prompt_file
from bds.evaluation.judges.registry import KEYWORD_JUDGES, MODEL_JUDGES, find_judge
from bds.evaluation.judges.responses import JudgeResponse, read_response

__all__ = [
    "ENDPOINTS",
    "KEYWORD_JUDGES",
    "MODEL_JUDGES",
    "Judge",
    "JudgeOptions",
    "JudgeResponse",
    "KeywordJudge",
    "RequestKind",
    "find_judge",
    "read_prompt_file",
    "read_response",
]
