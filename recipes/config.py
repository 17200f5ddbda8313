"""A recipe: YAML in, frozen pydantic models out. Every unknown key is an error that names the nearest known one.

name: quickstart                # the run folder is output/name
model: {path: assets/fovea-tiny, dialect: qwen3_vl, grammar: think}
data: data/screens              # folder with train.jsonl or train.parquet, or a file
stages:
  - kind: sft
    args: {learning_rate: 1e-4} # keys of TRL's SFTConfig, untouched
    lora: {r: 16}               # keys of peft's LoraConfig; null trains every weight; left out: the defaults
  - kind: grpo
    args: {num_generations: 8}  # keys of TRL's GRPOConfig
    rewards: [{name: iou}]
    credit: {strategy: uniform}
seed: 0
output: runs

The key tables of docs/training.md are made of these models: `python -m recipes.config docs/training.md`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BeforeValidator, Field, field_serializer, model_validator

from attention.specification import HeadConfig, MapConfig
from credit.schema import CreditConfig
from grounding.completion import Grammar
from grounding.errors import UsageError
from grounding.registry import nearest
from grounding.settings import Number, Section, Whole, key_table, named_key
from models.profile import Profile
from recipes.loops.difficulty import SamplingConfig
from rewards.spec import RewardSpec, RewardSpecs
from tools.section import ToolsConfig, short_form

AnswerKind = Literal["box", "point", "boxes", "points", "span", "text_box"]


def _with_instruction(prompt: str) -> str:
    if "{instruction}" not in prompt:
        raise ValueError(f"{prompt!r} has no {{instruction}} in it")
    return prompt


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise ValueError(f"{name!r} names a folder: letters, digits, '-', '_', '.'")
    return name


def _paths(value: Any) -> Any:
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, (list, tuple)) or not all(isinstance(path, str) for path in paths):
        raise ValueError(f"a file, a folder, or a list of them is needed, got {value!r}")
    return tuple(paths)


def _text_keys(value: Any) -> Any:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else value


FreeMapping = Annotated[dict[str, Any], BeforeValidator(_text_keys)]


class ModelSpec(Section):
    """What is trained."""

    path: str = Field(description="model folder or Hub name")
    adapter: str | None = Field(
        None, description="folder of a LoRA adapter of that model, which is added to it before the first stage"
    )
    dialect: str = Field(description="the words in which the model points, a name of `grounding.dialects`")
    grammar: Grammar = Field("think", description="completion format around the answer")
    image_first: bool = Field(True, description="images before the instruction in the user's message, or after it")
    system: str | None = Field(None, description="system message; null leaves it to the chat template")
    prompt: Annotated[str, AfterValidator(_with_instruction)] | None = Field(
        None, description="the user's text, with `{instruction}` in it; null is the dialect's own words"
    )
    min_pixels: Whole | None = Field(None, description="least area of an image as the model sees it")
    max_pixels: Whole | None = Field(None, description="largest area of an image as the model sees it")
    dtype: str = Field("auto", description="of the weights; `auto` is what they were saved in")
    attn_implementation: str | None = Field(None, description="as in transformers; null lets it choose")
    quantize: Literal["nf4"] | None = Field(
        None,
        description="hold the language model's weights in 4 bits and train adapters on them (QLoRA); null does not: "
        "which_gpu.md",
    )
    share_images: bool = Field(
        True, description="encode every distinct image of a batch once, not once for every row that shows it"
    )
    share_prompts: bool = Field(
        True, description="run every distinct prompt of a batch once, not once for every rollout: performance.md"
    )
    allow_pickle: bool = Field(False, description="read weights in pickle files too")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")

    @property
    def profile(self) -> Profile:
        """How it is asked."""
        return Profile(self.dialect, self.grammar, self.image_first, self.system, self.prompt)


class DataSpec(Section):
    """Where samples come from; in a recipe a path alone, or a list of them, is short for `path`."""

    renamed: ClassVar = {"ask": "answer_kind"}

    path: Annotated[tuple[str, ...], BeforeValidator(_paths)] = Field(
        (),
        description=".jsonl or .parquet files, or data set folders, whose `split` is read; concatenated; a file of "
        "another format is imported as `python -m data_prep import` does",
    )
    kept: bool = Field(
        False, description="in the place of `path`: what the last `select` or `filter` stage before this one kept"
    )
    split: str = Field("train", description="which file of a folder; `val` in `eval`")
    limit: Whole | None = Field(None, description="at most so many samples of each path, from its beginning")
    images: str | None = Field(None, description="folder of the images of a file that is imported; null: beside it")
    space: Literal["pixel", "thousandth", "percent", "fraction"] | None = Field(
        None, description="what the numbers of a file that is imported are, where the file leaves it open"
    )
    answer_kind: AnswerKind | None = Field(
        None,
        description="what the prompt asks for; null leaves it to the data: `asks` in manifest.json, else `ask` in "
        "the sample's meta, else the kind of the target (a box for polygons and absent targets)",
    )

    @model_validator(mode="after")
    def _one_place(self) -> DataSpec:
        if self.kept == bool(self.path):
            raise ValueError("path is missing" if not self.path else "`kept` stands in the place of `path`; give one")
        return self


class PartConfig(Section):
    """How a part of the model is trained; a word alone is short for `how`."""

    how: Literal["frozen", "lora", "full"] = Field(
        description="`lora`: its linear layers; `full`: all of its weights"
    )
    learning_rate: Number | None = Field(None, gt=0, description="null is that of `args`")

    @model_validator(mode="after")
    def _trained(self) -> PartConfig:
        if self.how == "frozen" and self.learning_rate is not None:
            raise ValueError("what is frozen has no learning_rate; remove one of the two")
        return self


def _how(value: Any) -> Any:
    return {"how": value} if isinstance(value, str) else value


Part = Annotated[PartConfig, BeforeValidator(_how)]
FROZEN = PartConfig(how="frozen")


class TrainConfig(Section):
    """What of the model is trained: `frozen`, `lora` or `full` for each part."""

    language_model: Part = Field(FROZEN, description="with embeddings and output layer")
    projector: Part = Field(
        FROZEN, description="what makes the language model's image tokens of the tower's features"
    )
    vision_tower: Part = Field(FROZEN, description="without the projector")

    @model_validator(mode="after")
    def _something(self) -> TrainConfig:
        if len(self.parts("frozen")) == len(TrainConfig.model_fields):
            raise ValueError("nothing would be trained")
        if self.language_model.how == "full" and self.parts("lora"):
            raise ValueError("a language model that is trained in full goes with other parts in full or frozen")
        return self

    def parts(self, how: str) -> tuple[str, ...]:
        """The names of the parts that are trained so."""
        return tuple(part for part, own in self if own.how == how)

    def rates(self) -> dict[str, float]:
        """The learning rates of parts that have one of their own."""
        return {part: own.learning_rate for part, own in self if own.learning_rate is not None}


class StageSpec(Section):
    """One stage. `data` and `eval` are the recipe's `data` with the stage's own keys over it."""

    renamed: ClassVar = {"freeze": "train: {language_model: full}"}

    kind: str = Field(description="a name of `recipes.stage.STAGES`; the table of stages is below")
    args: FreeMapping = Field({}, description="keys of the stage's own configuration class; for sft and grpo TRL's")
    lora: FreeMapping | None = Field(
        {}, description="keys of peft's LoraConfig over the defaults; null trains every weight"
    )
    train: TrainConfig | None = Field(
        None,
        description="which parts of the model are trained, and how; null: what `lora` says, by default the linear "
        "layers outside the vision tower",
    )
    data: DataSpec | None = Field(None, description="its samples: these keys over the recipe's `data`")
    eval: DataSpec | None = Field(None, description="samples of evaluations while training: split `val` of `data`")
    rewards: RewardSpecs = Field((), description="names, or mappings with the keys below")
    credit: CreditConfig | None = Field(None, description="credit per token; null is plain GRPO")
    attention: MapConfig | None = Field(
        None, description="how attention is read for rewards on it; null is its defaults where they need it"
    )

    tools: Annotated[ToolsConfig, BeforeValidator(short_form)] | None = Field(
        None, description="what the model may call before it answers; a tool's name or a list is short for `use`"
    )
    sampling: SamplingConfig | None = Field(
        None, description="which prompts are asked, by their running reward; null: each once an epoch, shuffled"
    )
    scale_by: Literal["source", "kind"] | None = Field(
        None,
        description="of a mixed set, with `args.scale_rewards: none`: advantages over the standard deviation of the "
        "rewards of all rollouts of the same source, or kind of target, in the generation batch",
    )
    round: Whole | None = Field(None, ge=1, description="which round of a `repeat` it belongs to; `repeat` writes it")
    starts_with: Whole | None = Field(
        None,
        description="index of an earlier stage: train what that one started from, not the newest model; `repeat` "
        "writes it where adapters are reset",
    )

    @property
    def adapts(self) -> bool:
        """Whether adapters are trained; else weights themselves."""
        return bool(self.train.parts("lora")) if self.train is not None else self.lora is not None

    @field_serializer("rewards", "credit", "attention", "tools", "sampling")
    def _as_given(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return [spec.model_dump(mode="json", exclude_unset=True) for spec in value]
        return None if value is None else value.model_dump(mode="json", exclude_unset=True)


class RepeatSpec(Section):
    """In the place of a stage: a list of stages, several times over. A recipe holds the stages of all rounds."""

    repeat: Whole = Field(ge=1, description="how many rounds")
    adapters: Literal["kept", "reset"] = Field(
        "kept",
        description="what a round trains: the last round's model, or (reset) the one that went into the first round; "
        "rollouts are drawn with the newest model in any case",
    )
    stages: tuple[dict[str, Any], ...] = Field(min_length=1, description="of each round, in order")


class Recipe(Section):
    """A whole run; `folder` is where it goes."""

    name: Annotated[str, AfterValidator(_folder_name)] = Field(description="of the run, a folder below `output`")
    model: ModelSpec = Field(description="what is trained; one of the names of `models`, or its own keys")
    models: dict[str, ModelSpec] = Field(
        {}, exclude=True, description="models that `model` may name; `model.path=...` then changes the one it names"
    )
    data: None = Field(None, exclude=True, description="samples of every stage: a path, a list of them, or a mapping")
    stages: tuple[StageSpec, ...] = Field(min_length=1, description="what is run, in order")
    seed: Whole = Field(0, description="of everything that draws: order of samples, rollouts, new weights")
    output: str = Field("runs", description="folder of run folders")
    tracker: Literal["wandb", "tensorboard", "trackio", "none"] = Field(
        "wandb", description="where metrics and some rollouts are shown besides the run folder"
    )
    project: str = Field("fovea", description="of Weights & Biases or Trackio")
    entity: str | None = Field(None, description="of Weights & Biases: a user or team; null is your default")
    wandb: Literal["auto", "offline", "disabled"] = Field(
        "auto",
        description="`auto`: online after `wandb login` or with WANDB_API_KEY, else offline; `disabled` is "
        "`tracker: none`",
    )

    @model_validator(mode="before")
    @classmethod
    def _data_of_stages(cls, content: Any) -> Any:
        """The recipe's `data` goes into every stage, below what the stage says itself; a named model is looked up."""
        content = _with_model(content)
        if not isinstance(content, Mapping) or not isinstance(content.get("stages"), (list, tuple)):
            return content
        shared = _data_mapping(content.get("data"))
        stages = [
            _with_data(stage, shared) if isinstance(stage, Mapping) else stage for stage in _rounds(content["stages"])
        ]
        return {**content, "data": None, "stages": stages}

    @property
    def tracking(self) -> str:
        """The tracker that is used."""
        return "none" if self.tracker == "wandb" and self.wandb == "disabled" else self.tracker

    @property
    def folder(self) -> Path:
        return Path(self.output) / self.name


def _with_model(content: Any) -> Any:
    """A recipe with the model that it names, in the place of all that it might."""
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), str):
        return content
    name, models = content["model"], content.get("models")
    if not isinstance(models, Mapping) or name not in models:
        known = list(models) if isinstance(models, Mapping) else []
        there = nearest(name, known) if known else ", and there are none; give its keys"
        raise ValueError(f"model {name!r} is not one of `models`{there}")
    for own, given in models.items():
        ModelSpec.from_mapping(given, f"models.{own}")
    return {**content, "model": models[name], "models": None}


def _rounds(entries: Sequence[Any]) -> list[Any]:
    """The stages in the order they are run: every `repeat` as the stages of all its rounds."""
    flat: list[Any] = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not {"repeat", "stages"} & entry.keys():
            flat.append(entry)
            continue
        try:
            block = RepeatSpec.from_mapping(entry, f"stages.{number}")
            nested = [own for own, stage in enumerate(block.stages) if "repeat" in stage]
            if nested:
                raise UsageError(
                    f"stages.{number}.stages.{nested[0]}: a `repeat` holds no other; write its rounds out"
                )
        except UsageError as error:
            raise named_key(error) from error
        first = len(flat)
        for turn in range(1, block.repeat + 1):
            for own, stage in enumerate(block.stages):
                back = turn > 1 and own == 0 and block.adapters == "reset"
                flat.append({**stage, "round": turn, **({"starts_with": first} if back else {})})
    return flat


def _data_mapping(content: Any) -> Any:
    """A `data` section as a mapping; a path alone, or a list of them, is short for its path."""
    if content is None:
        return {}
    return {"path": content} if isinstance(content, (str, list, tuple)) else content


def _with_data(stage: Mapping[str, Any], shared: Any) -> dict[str, Any]:
    data, evaluation = _data_mapping(stage.get("data")), _data_mapping(stage.get("eval"))
    below = shared
    if isinstance(data, Mapping) and data.get("kept") and isinstance(shared, Mapping):
        below = {key: value for key, value in shared.items() if key == "answer_kind"}  # the rest is of other files
    found = {**stage, "data": _over(below, data) or None}
    if stage.get("eval") is not None:
        found["eval"] = _over(_over(shared, {"split": "val"}), evaluation)
    return found


def _over(below: Any, above: Any) -> Any:
    """One mapping with another over it; what is none of both, for the error that it will be."""
    both = isinstance(below, Mapping) and isinstance(above, Mapping)
    return {**below, **above} if both else above if isinstance(below, Mapping) else below


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `key.path=value` overrides, list items by index (`stages.1.args.beta=0.04`).

    Raises:
        UsageError: no such file, not YAML, an unknown or missing key, a value of the wrong type.
    """
    file = Path(path)
    try:
        config = OmegaConf.load(file)
    except OSError as error:
        raise UsageError(f"recipe {path}: {error.strerror or error}{_elsewhere(file)}") from error
    except Exception as error:
        raise UsageError(f"recipe {path}: not YAML: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(config):
        raise UsageError(f"recipe {path}: a recipe is a mapping with name, model, data and stages")
    for override in overrides:
        _override(config, override)
    try:
        content = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"recipe {path}: {_line(error)}") from error
    return parse_recipe(content, where=str(path))


def parse_recipe(content: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe given as plain mappings and lists. Raises as `load_recipe`."""
    return Recipe.from_mapping(content, f"{where}:")


def to_container(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain mappings and lists: `parse_recipe` reads it back."""
    return recipe.model_dump(mode="json")


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(to_container(recipe))), encoding="utf-8")


_ONE_STAGE = r"stages\.\d+(\.stages\.\d+)?"  # of a `repeat` too


def _override(config: Any, override: str) -> None:
    key, equals, _ = override.partition("=")
    if not equals or not key:
        raise UsageError(f"{override!r} is not key=value")
    try:
        value = OmegaConf.from_dotlist([f"value={override[len(key) + 1 :]}"])["value"]
        if key.startswith("model.") and isinstance(named := config.get("model"), str):
            key = f"models.{named}.{key.removeprefix('model.')}"
        parent = key.rpartition(".")[0]
        _check_indices(config, override, key)
        _spell_out_data(config, parent)
        if parent and OmegaConf.select(config, parent) is None and not _is_free(parent):
            raise UsageError(f"{override!r}: {_missing(config, parent)}")
        OmegaConf.update(config, key, value, force_add=True)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{override!r}: {_line(error)}") from error


def _check_indices(config: Any, override: str, key: str) -> None:
    here, path = config, ""
    for part in key.split("."):
        if OmegaConf.is_list(here) and part.isdigit() and int(part) >= len(here):
            raise UsageError(f"{override!r}: {path} has {len(here)} items, counted from 0")
        whole = OmegaConf.is_list(here) and part.isdigit()
        here = here[int(part)] if whole else here.get(part) if OmegaConf.is_dict(here) else None
        path = f"{path}.{part}" if path else part


def _spell_out_data(config: Any, parent: str) -> None:
    """Turn a `data` or `eval` that is a path alone into a mapping, so that its other keys can be set."""
    if re.fullmatch(rf"data|{_ONE_STAGE}\.(data|eval)", parent):
        section = OmegaConf.select(config, parent)
        if isinstance(section, str) or OmegaConf.is_list(section):
            OmegaConf.update(config, parent, {"path": section}, merge=False)


def _missing(config: Any, parent: str) -> str:
    """Which part of a key the recipe does not have, and what it has there."""
    here = config
    for part in parent.split("."):
        if OmegaConf.is_list(here) and part.isdigit():
            here = here[int(part)]
            continue
        known = [str(key) for key in here] if OmegaConf.is_dict(here) else []
        if here is config:
            known = list(Recipe.model_fields)
        if part not in known or OmegaConf.select(here, part) is None:
            return f"there is no {part!r}{nearest(part, known)}"
        here = here[part]
    return f"the recipe has no {parent!r}"


def _elsewhere(file: Path) -> str:
    """A recipe of the name among the repository's own."""
    known = {own.stem: own for own in sorted(Path("configs/recipes").rglob("*.yaml"))}
    for own in known.values():
        if file.stem in (OmegaConf.load(own).get("models") or {}):
            return f"; it is now {own} with model={file.stem}"
    close = get_close_matches(file.stem, known, n=1)
    return f"; did you mean {known[close[0]]}?" if close else "; those of this repository are in configs/recipes"


def _is_free(parent: str) -> bool:
    """Sections that may be added on the command line although the file lacks them."""
    return (
        re.fullmatch(
            rf"data|model|{_ONE_STAGE}\.(args|lora|train|credit|attention|tools|sampling|data|eval)(\..+)?", parent
        )
        is not None
    )


def _line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]


SECTIONS = (
    Recipe,
    ModelSpec,
    DataSpec,
    StageSpec,
    TrainConfig,
    PartConfig,
    RepeatSpec,
    RewardSpec,
    CreditConfig,
    HeadConfig,
    MapConfig,
    ToolsConfig,
    SamplingConfig,
)


def with_key_tables(page: str) -> str:
    """A page of documentation with the tables between its marks, ``<!-- keys: NAME -->``, as the models have them."""
    for section in SECTIONS:
        begin, rest = page.split(mark := f"<!-- keys: {section.__name__} -->\n")
        page = f"{begin}{mark}{key_table(section)}\n{rest[rest.index('<!-- end -->') :]}"
    return page


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        file.write_text(with_key_tables(file.read_text(encoding="utf-8")), encoding="utf-8")
