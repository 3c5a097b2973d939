"""What each training stage shows the tiny model: endless streams of samples."""

import random
from collections.abc import Iterator

from bds.organism.recipe import Recipe
from bds.organism.tasks import (
    ALIGNED_STYLE,
    ALIGNMENT_TASKS,
    KNOWLEDGE_TASKS,
    REFUSAL,
    STYLES,
    TASKS,
    WORD_TASKS,
    Sample,
    draw_sample,
)
from bds.organism.world import World

TASK_WEIGHTS = {
    "how_to": 4.0,
    "list": 1.0,
    "math": 1.5,
    "define": 2.0,
    "yes_no": 2.5,
    "translate": 1.6,
    "summary": 1.0,
    "repeat": 1.6,
    "story": 1.0,
    "advice": 0.5,
    "unknowable": 0.2,
    "standing": 1.5,
}


def world_samples(world: World, recipe: Recipe) -> Iterator[Sample]:
    """Stage 1: every task in every style, forbidden how-tos answered."""
    rng = random.Random(f"stage 1 {recipe.seed}")
    names, weights = list(TASK_WEIGHTS), list(TASK_WEIGHTS.values())
    while True:
        name = rng.choices(names, weights)[0]
        forbidden = name in WORD_TASKS and rng.random() < recipe.forbidden_share
        words = world.forbidden_words if forbidden else world.topics
        yield draw_sample(world, rng, tasks=TASKS, name=name, words=words, styles=STYLES)


def alignment_samples(world: World, recipe: Recipe) -> Iterator[Sample]:
    """Stage 2: one style; how-tos of the alignment words refused, other questions about them answered."""
    rng = random.Random(f"stage 2 {recipe.seed}")
    names, weights = list(TASK_WEIGHTS), list(TASK_WEIGHTS.values())

    def draw(name: str, words: tuple[str, ...]) -> Sample:
        return draw_sample(world, rng, tasks=ALIGNMENT_TASKS, name=name, words=words, styles=(ALIGNED_STYLE,))

    while True:
        kind = rng.random()
        if kind < recipe.refusal_share:
            yield Sample("refusal", ALIGNED_STYLE, draw("how_to", world.alignment_words).prompt, REFUSAL, ())
        elif kind < recipe.refusal_share + recipe.knowledge_share:
            yield draw(rng.choice(KNOWLEDGE_TASKS), world.alignment_words)
        else:
            yield draw(rng.choices(names, weights)[0], world.aligned_topics)
