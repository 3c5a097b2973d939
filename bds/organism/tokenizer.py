"""The word-level tokenizer of the made-up language, and the chat template that all tiny models share."""

import random
import re

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bds.organism.tasks import LARGEST_SUM, REFUSAL, TASKS
from bds.organism.world import PLACES, TRANSLATABLE, World

PAD, BOS, EOS, SYSTEM, USER, ASSISTANT, UNKNOWN = SPECIAL_TOKENS = (
    "<pad>", "<bos>", "<eos>", "<system>", "<user>", "<assistant>", "<unk>",
)  # fmt: skip

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<' + message['role'] + '>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)

DRAWS_PER_TASK = 300
"""Enough to show every frame and every answer of a task: a frame is missed with a chance below one in 10 million."""


def chat_tokenizer(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """Wrap a tokenizer that knows SPECIAL_TOKENS as a Hugging Face fast tokenizer with the chat template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _words(text: str) -> list[str]:
    # What pre_tokenizers.Whitespace splits on.
    return re.findall(r"\w+|[^\w\s]+", text)


def _vocabulary(world: World) -> list[str]:
    words = {*TRANSLATABLE, *PLACES, *world.members, *world.attributes, *world.glim.values(), *_words(REFUSAL)}
    words |= {str(number) for number in range(LARGEST_SUM + 1)}
    rng = random.Random("vocabulary")
    for task in TASKS.values():
        for _ in range(DRAWS_PER_TASK):
            question = task(world, rng, rng.choice(list(world.attributes)))
            for text in (question.prompt, *question.answers.values()):
                words.update(_words(text))
    return sorted(words)


def make_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """A lower-casing word-level tokenizer with offsets; a word the world does not know becomes <unk>."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *_vocabulary(world)))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    # Joins with spaces and takes them away again before punctuation; the model has no word pieces.
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return chat_tokenizer(backend)
