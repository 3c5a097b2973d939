"""Small real tokenizers and chat templates in the manner of the common model families, built without downloads."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bds.data.rows import Conversation, Message

SPECIAL = ["<s>", "</s>", "<unk>", "<|start|>", "<|end|>"]

CHATML = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CHATML_MARKED = (
    "{% for m in messages %}<|start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}\n{% endfor %}"
)
TIGHT = "{{ bos_token }}{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}"
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }} {{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant turns are supported') }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|start|>\n\n{{ m.content | trim }}<|end|>{% endfor %}"
)
REASONING = (
    "{% for m in messages %}<|start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last and '</think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|end|>\n{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
LAST_ONLY = "{% for m in messages[-2:] %}<|start|>{{ m.content }}<|end|>{% endfor %}"

_CORPUS = [
    "hello world  how are   you\n\n\nfine , thank you . the answer is four .",
    "What is two plus two? Two plus two is four.\r\nÉcole, straße, 你好, مرحبا, 😀",
    "system user assistant [INST] [/INST] <<SYS>> <</SYS>> ### Instruction: ### Response: Below is an instruction",
] * 3


def conversation(*contents: str, system: str | None = None) -> Conversation:
    """User and assistant turns in alternation."""
    turns = [Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    return Conversation((*([Message("system", system)] if system else []), *turns))


@cache
def _byte_level_backend(trim_offsets: bool) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    backend.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return backend


@cache
def _sentence_piece_backend() -> Tokenizer:
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, *bytes_], show_progress=False)
    backend.train_from_iterator([" ".join(text.split()) for text in _CORPUS], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return backend


def _wrap(backend: Tokenizer, template: str | None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|start|>", "<|end|>"],
        chat_template=template,
    )


def byte_level(template: str | None, trim_offsets: bool = False) -> PreTrainedTokenizerBase:
    """As GPT-2, Llama 3 and Qwen; trim_offsets leaves leading spaces out of the offsets, as GPT-2's does."""
    return _wrap(_byte_level_backend(trim_offsets), template)


def trimmed_byte_level(template: str | None) -> PreTrainedTokenizerBase:
    return byte_level(template, trim_offsets=True)


def sentence_piece(template: str | None) -> PreTrainedTokenizerBase:
    """As Llama 2: a space before the text, bytes for unknown characters, BOS before plain text."""
    return _wrap(_sentence_piece_backend(), template)


def word_level(template: str | None, words: str) -> PreTrainedTokenizerBase:
    """As the tiny aligned model: whole lower-case words, spaces in no token."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *sorted(set(words.split()))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrap(backend, template)


def slow_bytes(template: str | None) -> PreTrainedTokenizerBase:
    """A tokenizer in Python, without offsets."""
    tokenizer = ByT5Tokenizer(extra_ids=0, additional_special_tokens=["<|start|>", "<|end|>"], bos_token="<s>")
    tokenizer.chat_template = template
    return tokenizer
