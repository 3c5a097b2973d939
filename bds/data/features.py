"""What a row's text looks like: lists, maths, code, length, kind of question, refusal and safety phrasing.

Detectors partly detect format and length (He et al. 2024; Guan et al. 2025), so controls match these columns and the
report shows their mix. All are heuristics on the surface of English text. They hold for spaced lower-case text too
("1 . take the bowl 2 . cut the edge"), which is what a word-level tokenizer leaves.

Every pattern is bounded or anchored to a line, so that a row of a megabyte takes milliseconds.
"""

import re
from dataclasses import dataclass

SHORT_ANSWER_WORDS = 5
"""An answer of so many words or fewer is short: the answers that Self-Inf prefers (Guan et al. 2025)."""

QUESTION_TYPES = (
    "list",
    "how_to",
    "what",
    "why",
    "who_when_where",
    "yes_no",
    "rewrite",
    "write",
    "classify",
    "math",
    "code",
    "other",
)
"""What a prompt asks for. `rewrite` works on a given text (edit, summarise, translate), `write` makes a new one."""


@dataclass(frozen=True)
class TextFeatures:
    """The feature columns of bds/scoring/columns.py."""

    numbered_list: bool
    """The answer has an item 1 and, after it, an item 2."""
    bullet_list: bool
    """The answer has two lines that begin with a bullet."""
    math: bool
    """The prompt or the answer shows a calculation, an equation or LaTeX."""
    code: bool
    """The prompt or the answer shows program text."""
    short_answer: bool
    refusal_phrase: bool
    """The answer says that it will not or cannot help."""
    safety_phrase: bool
    """The answer warns: of law, harm, danger, ethics, or sends the reader to a professional."""
    question_type: str
    prompt_words: int
    answer_words: int


def text_features(prompt: str, answer: str) -> TextFeatures:
    """Features of one prompt (the last user turn) and its answer. Pure text work, linear in its length."""
    plain_answer = _plain(answer)
    answer_words = count_words(answer)
    prompt_code, answer_code = (_CODE.search(text) is not None for text in (prompt, answer))
    # An assignment in program text looks like an equation.
    prompt_math = not prompt_code and _MATH.search(prompt) is not None
    answer_math = not answer_code and _MATH.search(answer) is not None
    return TextFeatures(
        numbered_list=_has_numbered_list(answer),
        bullet_list=len(_BULLET.findall(answer)) >= 2,
        math=prompt_math or answer_math,
        code=prompt_code or answer_code,
        short_answer=answer_words <= SHORT_ANSWER_WORDS,
        refusal_phrase=_REFUSAL.search(plain_answer) is not None,
        safety_phrase=_SAFETY.search(plain_answer) is not None,
        question_type=_question_type(prompt, prompt_code, prompt_math),
        prompt_words=count_words(prompt),
        answer_words=answer_words,
    )


def _any_of(*patterns: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), flags)


_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Chinese characters, written without spaces
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:['’.,-][^\W{_UNSPACED}]+)*")


def count_words(text: str) -> int:
    """Words; punctuation on its own is none, and in Chinese and Japanese every character counts as one."""
    return sum(1 for _ in _WORD.finditer(text))


def _question_type(prompt: str, shows_code: bool, shows_math: bool) -> str:
    """One of QUESTION_TYPES: decided by how the prompt opens, or else by its last question."""
    text = _POLITE.sub("", _plain(prompt))
    if _ASKS_CODE.search(text[:_OPENING]) or shows_code:
        return "code"
    if _REWRITE.match(text):
        return "rewrite"
    if shows_math or (_ASKS_NUMBER.search(text) and re.search(r"\d", text)):
        return "math"
    last_question = re.findall(r"[^.!?]{1,300}\?", text[-_ENDING:])[-1:]
    for part in (text, *(_POLITE.sub("", question.strip()) for question in last_question)):
        for name, pattern in _OPENINGS.items():
            if pattern.match(part):
                return name
    return "other"


_OPENING = 300
"""Characters of a prompt that say what it asks for; what follows is often a text to work on."""
_ENDING = 1000
"""Characters at the end of a prompt in which its last question is looked for."""

_POLITE = re.compile(r"^(?:(?:please|kindly|hi|hello|hey|(?:can|could|would|will) you)[,!.]? )+")
_SPACED_PUNCTUATION = re.compile(r" ([.,;:!?])")
_SPACED_APOSTROPHE = re.compile(r" ?' ?(?=(?:t|s|m|re|ll|ve|d)\b)")


def _plain(text: str) -> str:
    """Lower case, straight apostrophes, single spaces, none before punctuation."""
    joined = " ".join(text.lower().replace("’", "'").split())
    return _SPACED_APOSTROPHE.sub("'", _SPACED_PUNCTUATION.sub(r"\1", joined))


_NUMBERED_LINE = re.compile(r"^[ \t]*(?:\*\*|step )?(\d{1,3}) ?[.):]", re.MULTILINE | re.IGNORECASE)
# In one line an item is a number of its own, and the list begins the answer or follows a colon or a sentence.
_INLINE_FIRST = re.compile(r"(?:^|[:.!?])\s?1 ?[.)] \S")
_INLINE_SECOND = re.compile(r"\s2 ?[.)] \S")
_BULLET = re.compile(r"^[ \t]*[-*•‣▪◦–][ \t]+\S", re.MULTILINE)


def _has_numbered_list(answer: str) -> bool:
    if {1, 2} <= {int(number) for number in _NUMBERED_LINE.findall(answer)}:
        return True
    first = _INLINE_FIRST.search(answer)
    return first is not None and _INLINE_SECOND.search(answer, first.end()) is not None


_MATH = _any_of(
    r"\d ?[+×÷*^] ?\$?\d",  # 3 + 4
    r"\d [-−/] \$?\d",  # 7 - 2, but neither 2010-2020 nor 1/2
    r"\d ?= ?[-−]?\$?\d",  # 48/2=24
    r"[\w)] = [-−]?\$?\d",  # x = 24
    r"\\(?:frac|sqrt|sum|int|cdot|times|boxed|begin\{(?:equation|align|cases))",
    r"\$[^$\n]{0,200}[\\^=][^$\n]{0,200}\$",  # $x^2 = y$
)
_CODE = _any_of(
    r"```",
    r"^[ \t]*(?:def|class) \w+[^\n]{0,200}:[ \t]*$",
    r"^[ \t]*(?:from [\w.]+ )?import [\w.]+(?: as \w+)?[ \t]*;?$",
    r"^[ \t]*#include[ \t]*<",
    r"\b(?:public|private) (?:static )?(?:void|int|class|string)\b",
    r"\b(?:console\.log|system\.out\.print\w*|print(?:f|ln)?)\(",
    r"\bfunction \w* ?\([^)\n]{0,200}\) ?\{",
    r"\bselect\b[^;.\n]{1,200}\bfrom \w+(?: where\b| ?;| join\b)",
    r"</(?:div|p|html|body|head|a|span|table|ul|script)>",
    flags=re.MULTILINE | re.IGNORECASE,
)


_LANGUAGE = r"\b(?:python|java(?:script)?|typescript|c\+\+|c#|sql|html|css|php|ruby|rust|bash|shell|matlab)(?!\w)"
_PROGRAM = r"\b(?:code|program|function|script|query|class|method|page)\b"
_ASKS_CODE = _any_of(
    rf"{_LANGUAGE}[^.?]*{_PROGRAM}",
    rf"{_PROGRAM}[^.?]*{_LANGUAGE}",
    r"\b(?:write|create|implement|debug) (?:a |an |some |the )?(?:code|function|program|algorithm|sql query)\b",
    r"\bregular expression\b",
)
_ASKS_NUMBER = _any_of(
    r"\bhow (?:many|much|old|far|long|fast|tall)\b",
    r"\b(?:calculate|compute|solve|evaluate|add|subtract|multiply|divide)\b",
    r"\bwhat (?:is|was) the (?:total|sum|average|mean|median|area|perimeter|volume|probability|percentage|ratio)\b",
    r"\bwhat percent(?:age)?\b",
)
_REWRITE = _any_of(
    r"(?:re-?write|re-?phrase|re-?word|paraphrase|edit|correct|fix|proofread|improve)\b",
    r"(?:summari[sz]e|shorten|simplify|condense|translate|convert|repeat|say in)\b",
    r"(?:turn|transform|change|replace|remove|reorder|rearrange|combine|complete the sentence)\b",
)
_NUMBER = r"(?:\d+|two|three|four|five|six|seven|eight|nine|ten|some|several|a few)"
_OPENINGS = {
    "list": _any_of(
        r"(?:list|enumerate|brainstorm)\b",
        r"(?:name|suggest|provide|give|generate|identify|find|come up with|tell)(?: me| us)? "
        rf"(?:{_NUMBER}|a list|an? \w+ list|the names)\b",
        rf"what are (?:the |your )?(?:{_NUMBER}|top|best|main)\b",
        r"\w+ (?:me )?a list of\b",
        r"(?:create|make|write|compile) (?:me )?an? (?:\w+ )?list\b",
    ),
    "how_to": _any_of(
        r"how (?:do|does|did|can|could|to|should|would|might)\b",
        r"(?:explain|describe|show|tell|teach)(?: me| us)? (?:how|to)\b",
        r"(?:explain|describe|outline) (?:the|a) (?:process|steps?|procedure|method|way|use)\b",
        r"(?:give|provide|write|create)(?: me| us)? (?:a |an |the |some )?(?:\w+ )?"
        r"(?:steps|guide|instructions|recipe|tutorial|tips)\b",
        r"what (?:is|are) the (?:best |easiest |right )?(?:way|steps|method|process)\b",
        r"i want to (?:make|build|learn|get|use)\b",
    ),
    "why": _any_of(
        r"why\b",
        r"(?:explain|describe) why\b",
        r"what (?:is|was|are|were) the (?:reasons?|causes?)\b",
        r"for what reason\b",
    ),
    "who_when_where": _any_of(
        r"(?:in )?(?:who|whom|whose|when|where|which|what (?:year|date|city|country|place|time))\b",
        r"(?:tell me|help me find) where\b",
    ),
    "what": _any_of(r"what\b", r"(?:define|describe|explain)\b", r"tell me (?:about|what)\b"),
    "write": _any_of(
        r"(?:write|create|compose|generate|design|draft|make|develop|construct|invent|produce|come up with|compile)\b",
        r"(?:tell(?: me)? a|imagine|pretend|add|continue|finish)\b",
    ),
    "classify": _any_of(
        r"(?:classify|categori[sz]e|sort|group|label|identify|determine|decide|select|choose|pick|detect|find)\b",
        r"(?:compare|analy[sz]e|evaluate|assess|rank|predict|match|arrange)\b",
    ),
    "yes_no": _any_of(
        r"(?:is|are|am|was|were|do|does|did|has|have|had)\b",
        r"(?:can|could|should|shall|will|would|may|might)\b",
    ),
}
"""How a prompt of each kind opens; the first that matches."""

_UNABLE = r"\bi ?(?:can ?not|can't|could ?n[o']t|(?:am|'m) (?:unable|not able) to|will not|won't)"
_REFUSAL = _any_of(
    rf"{_UNABLE} (?:help|assist|provide|support|fulfil+|comply|answer|respond|do (?:that|this)|give|share|discuss)\b",
    rf"{_UNABLE} (?:engage|continue|create|write|generate|offer|recommend|advise|participate)\b",
    rf"\b(?:sorry|apologi[sz]e),? (?:but )?{_UNABLE}",
    r"\bi (?:must|have to|need to|will have to) (?:decline|refuse)\b",
    r"\bi (?:refuse|decline) to\b",
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    r"\bi(?: am|'m) (?:just|only) an ai\b",
    r"\bi(?: am|'m| do) not (?:feel )?comfortable\b",
    r"\b(?:against|violates?) my (?:guidelines|programming)\b",
)
"""Written for bds; the papers leave rows out by a word list of their own, which is not copied here."""

_SAFETY = _any_of(
    r"\b(?:illegal|unlawful|against the law|unethical|immoral|discriminatory|offensive)\b",
    r"\b(?:harmful|dangerous|hazardous|misinformation)\b",
    r"\bnot (?:appropriate|acceptable|safe|ethical|legal)\b",
    r"\binappropriate\b",
    r"\b(?:consult|seek|talk to|speak to|contact)(?: with)?(?: an?| your| the)?(?: \w+){0,2} "
    r"(?:professional|doctor|physician|lawyer|attorney|therapist|counsel+or|authorities|services|advice|help)\b",
    r"\bfor (?:your|their|everyone's) (?:own )?safety\b",
    r"\bsafety (?:first|precautions|concerns?)\b",
)
"""Written for bds: warnings of law, ethics and danger."""
