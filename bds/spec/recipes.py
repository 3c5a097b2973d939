"""Recipes that stand in files of their own: each is read, checked on its own, and put into the spec."""

from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from bds.errors import SpecError
from bds.spec.document import Path, dotted, parse_document
from bds.spec.entries import RECIPE_FILE
from bds.spec.files import read_text
from bds.spec.finetune import RecipeSpec
from bds.spec.kinds import RECIPE, refuse_other_kind
from bds.spec.paths import absolute
from bds.spec.problems import spec_error


def load_recipe(path: str, named_by: str) -> dict[str, Any]:
    """The fields that a recipe file gives, once they are a valid recipe.

    Args:
        named_by: the place and field that name the file, for the sentence about one that cannot be read.

    Raises:
        SpecError: one sentence with the recipe file, its line and the way out.
    """
    try:
        text = read_text(path, RECIPE)
    except SpecError as error:
        raise SpecError(f"{named_by}: {error}") from error
    document = parse_document(text, path, called=RECIPE.called, needs=RECIPE.needs)
    refuse_other_kind(document, RECIPE)
    try:
        RecipeSpec.model_validate(document.value)
    except ValidationError as error:
        raise spec_error(error, RecipeSpec, document) from error
    return document.value


def with_recipe_files(
    spec: dict[str, Any], folder_of: Callable[[Path], FilePath], place: Callable[[Path], str]
) -> dict[str, Any]:
    """A spec whose recipes hold what their files say; a field beside `from` replaces the file's.

    Args:
        folder_of: the folder that the recipe file at a path is relative to.
        place: where the user wrote what stands at a path, for error messages.
    """

    def filled(recipe: Any, path: Path) -> Any:
        if not isinstance(recipe, dict) or RECIPE_FILE not in recipe:
            return recipe
        own = {key: value for key, value in recipe.items() if key != RECIPE_FILE}
        at, file = (*path, RECIPE_FILE), recipe[RECIPE_FILE]
        if not isinstance(file, str):
            raise SpecError(f"{place(at)}: field {dotted(at)}: {file!r} is no path; write the path of a recipe file")
        return _replaced(load_recipe(absolute(file, folder_of(at)), f"{place(at)}: field {dotted(path)}"), own)

    spec = dict(spec)
    if isinstance(recipes := spec.get("recipes"), dict):
        spec["recipes"] = {name: filled(recipe, ("recipes", name)) for name, recipe in recipes.items()}
    if "then" in spec:
        spec["then"] = _with_filled_stages(spec["then"], ("then",), filled)
    if isinstance(experiments := spec.get("experiments"), dict):
        spec["experiments"] = {
            name: {**experiment, "then": _with_filled_stages(experiment["then"], ("experiments", name, "then"), filled)}
            if isinstance(experiment, dict) and "then" in experiment
            else experiment
            for name, experiment in experiments.items()
        }
    return spec


def _with_filled_stages(stages: Any, path: Path, filled: Callable[[Any, Path], Any]) -> Any:
    if not isinstance(stages, list):
        return stages
    return [
        {**stage, "recipe": filled(stage["recipe"], (*path, index, "recipe"))}
        if isinstance(stage, dict) and "recipe" in stage
        else stage
        for index, stage in enumerate(stages)
    ]


def _replaced(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`base` with the fields of `own`; of a block in both, each field for itself."""
    both = dict(base)
    for key, value in own.items():
        before = both.get(key)
        both[key] = _replaced(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return both
