"""A recipe: YAML in, frozen dataclasses out. Every unknown key is an error that names the nearest known one.

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
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from grounding.completion import GRAMMARS
from grounding.errors import UsageError
from grounding.registry import nearest
from models.profile import Profile

T = TypeVar("T")

ASKS = ("box", "point", "boxes", "points", "span", "text_box")
WANDB_MODES = ("auto", "offline", "disabled")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is trained.

    Attributes:
        path: model folder or Hub name.
        dialect: the words in which the model points, a name of `grounding.dialects`.
        grammar: what stands around the answer: "bare", "think" or "think_answer".
        image_first: images before the instruction in the user's message, or after it.
        system: system message; None leaves it to the chat template.
        prompt: the user's text, with `{instruction}` where the instruction goes; None is the dialect's own words.
        min_pixels, max_pixels: limits for the area of the image as the model sees it.
        dtype: of the weights; "auto" is what they were saved in.
        attn_implementation: as in transformers; None lets it choose.
        share_images: encode every distinct image of a batch once, not once for every row that shows it.
        share_prompts: run every distinct prompt of a batch once, not once for every rollout of it.
        allow_pickle: read weights in pickle files too.
        trust_remote_code: run code that comes with the model.
    """

    path: str
    dialect: str
    grammar: str = "think"
    image_first: bool = True
    system: str | None = None
    prompt: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    dtype: str = "auto"
    attn_implementation: str | None = None
    share_images: bool = True
    share_prompts: bool = True
    allow_pickle: bool = False
    trust_remote_code: bool = False

    @property
    def profile(self) -> Profile:
        """How it is asked."""
        return Profile(self.dialect, self.grammar, self.image_first, self.system, self.prompt)


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Where samples come from.

    Attributes:
        path: files (.jsonl, .parquet) or data set folders, whose `split` is read; concatenated.
        split: which file of a folder.
        limit: at most so many samples of each path, from its beginning.
        ask: what the prompt asks for, one of `ASKS`. None leaves it to the data: "asks" in its manifest.json,
            else "ask" in the sample's meta, else the kind of the target (a box for polygons and absent targets).
    """

    path: tuple[str, ...]
    split: str = "train"
    limit: int | None = None
    ask: str | None = None


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage.

    Attributes:
        kind: a name of `recipes.stage.STAGES`.
        args: keys of the stage's own configuration class (for sft and grpo: TRL's).
        lora: keys of peft's LoraConfig over the defaults; None trains every weight.
        data: its samples: the recipe's `data` with the stage's own keys over it.
        rewards: as `rewards.compose` reads them.
        credit: as `credit.assigner` reads it; None is plain GRPO.
        attention: as `attention.maps` reads it, for rewards on attention; None is its defaults where they need it.
    """

    kind: str
    args: Mapping[str, Any] = field(default_factory=dict)
    lora: Mapping[str, Any] | None = field(default_factory=dict)
    data: DataSpec | None = None
    eval: DataSpec | None = None
    rewards: Sequence[str | Mapping[str, Any]] = ()
    credit: Mapping[str, Any] | None = None
    attention: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole run; `folder` is where it goes.

    Attributes:
        name: of the run, a folder below `output`.
        seed: of everything that draws: order of samples, rollouts, new weights.
        wandb: "auto" uploads where a key is set and keeps the run offline elsewhere, "offline", or "disabled".
    """

    name: str
    model: ModelSpec
    stages: tuple[StageSpec, ...]
    seed: int = 0
    output: str = "runs"
    wandb: str = "auto"

    @property
    def folder(self) -> Path:
        return Path(self.output) / self.name


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
    """The dataclasses of a recipe given as plain mappings and lists. Raises as `load_recipe`."""
    known = ["data", *(f.name for f in dataclasses.fields(Recipe))]
    check_keys(content, known, where)
    content = {"data": None, **content}
    shared = content.pop("data")
    for key in ("name", "model", "stages"):
        if content.get(key) is None:
            raise UsageError(f"{where}: {key} is missing")
    if not isinstance(content["stages"], list) or not content["stages"]:
        raise UsageError(f"{where}: stages is a list of at least one stage")
    model = _build(ModelSpec, content.pop("model"), f"{where}: model")
    _one_of(model.grammar, GRAMMARS, f"{where}: model.grammar")
    if model.prompt is not None and "{instruction}" not in model.prompt:
        raise UsageError(f"{where}: model.prompt {model.prompt!r} has no {{instruction}} in it")
    stages = tuple(
        _stage(stage, shared, f"{where}: stages.{index}") for index, stage in enumerate(content.pop("stages"))
    )
    _one_of(content.get("wandb", "auto"), WANDB_MODES, f"{where}: wandb")
    rest = _typed(_RecipeScalars, content, where)
    if not re.fullmatch(r"[\w.-]+", rest["name"]) or rest["name"].startswith("."):
        raise UsageError(f"{where}: name {rest['name']!r} names a folder: letters, digits, '-', '_', '.'")
    return Recipe(model=model, stages=stages, **rest)


def to_container(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain mappings and lists: `parse_recipe` reads it back."""
    return _plain(dataclasses.asdict(recipe))


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(to_container(recipe))), encoding="utf-8")


def check_keys(mapping: Any, known: Sequence[str], where: str) -> None:
    """Raise `UsageError` at the first key that is not known, with the nearest one that is."""
    if not isinstance(mapping, Mapping):
        raise UsageError(f"{where} is {mapping!r}, it has to be a mapping")
    for key in mapping:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}{nearest(str(key), list(known))}")


@dataclass
class _RecipeScalars:
    """The keys of a recipe that are neither mappings nor lists, for their types."""

    name: str
    seed: int = 0
    output: str = "runs"
    wandb: str = "auto"


def _stage(content: Any, shared: Any, where: str) -> StageSpec:
    check_keys(content, [f.name for f in dataclasses.fields(StageSpec)], where)
    if "kind" not in content:
        raise UsageError(f"{where}: kind is missing")
    content = dict(content)
    for key in ("args", "lora", "credit", "attention"):
        if key in content and content[key] is not None:
            content[key] = {str(k): v for k, v in _mapping(content[key], f"{where}.{key}").items()}
    if content.get("args", {}) is None:
        content["args"] = {}
    rewards = content.get("rewards") or []
    if not isinstance(rewards, list) or not all(isinstance(reward, (str, Mapping)) for reward in rewards):
        raise UsageError(f"{where}.rewards is a list of names and mappings with a name")
    content["rewards"] = tuple(rewards)
    shared = _data_mapping(shared, f"{where}.data")
    own = _data_mapping(content.get("data"), f"{where}.data")
    content["data"] = _data({**shared, **own}, f"{where}.data") if shared or own else None
    if content.get("eval") is not None:  # another split of the same data, unless it says otherwise
        own = _data_mapping(content["eval"], f"{where}.eval")
        content["eval"] = _data({**shared, "split": "val", **own}, f"{where}.eval")
    return StageSpec(**content)


def _data_mapping(content: Any, where: str) -> dict[str, Any]:
    """A `data` section as a mapping; a path alone, or a list of them, is short for its path."""
    if content is None:
        return {}
    if isinstance(content, (str, list, tuple)):
        content = {"path": content}
    return dict(_mapping(content, where))


def _data(content: dict[str, Any], where: str) -> DataSpec:
    if isinstance(content.get("path"), str):
        content["path"] = (content["path"],)
    paths = content.get("path")
    if not isinstance(paths, (list, tuple)) or not paths or not all(isinstance(path, str) for path in paths):
        raise UsageError(f"{where}.path is a file, a folder, or a list of them")
    spec = _build(DataSpec, {**content, "path": list(paths)}, where)
    if spec.ask is not None:
        _one_of(spec.ask, ASKS, f"{where}.ask")
    return dataclasses.replace(spec, path=tuple(spec.path))


def _build(cls: type[T], content: Any, where: str) -> T:
    check_keys(content, [f.name for f in dataclasses.fields(cls)], where)
    for f in dataclasses.fields(cls):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and content.get(f.name) is None:
            raise UsageError(f"{where}.{f.name} is missing")
    return cls(**_typed(cls, content, where))


def _typed(cls: type, content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of `content`, converted to the types of the dataclass's fields."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cls), content)
        values = OmegaConf.to_container(merged)
    except OmegaConfBaseException as error:
        raise UsageError(f"{where}.{error.full_key}: {_line(error)}") from error
    return {str(key): value for key, value in values.items()}


def _override(config: Any, override: str) -> None:
    key, equals, _ = override.partition("=")
    if not equals or not key:
        raise UsageError(f"{override!r} is not key=value")
    try:
        value = OmegaConf.from_dotlist([f"value={override[len(key) + 1 :]}"])["value"]
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
    if re.fullmatch(r"data|stages\.\d+\.(data|eval)", parent):
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
            known = ["data", *(f.name for f in dataclasses.fields(Recipe))]
        if part not in known or OmegaConf.select(here, part) is None:
            return f"there is no {part!r}{nearest(part, known)}"
        here = here[part]
    return f"the recipe has no {parent!r}"


def _elsewhere(file: Path) -> str:
    """A recipe of the name among the repository's own."""
    own = Path("configs/recipes") / f"{file.stem}.yaml"
    return (
        f"; did you mean {own}?"
        if own.is_file() and own != file
        else "; those of this repository are in configs/recipes"
    )


def _is_free(parent: str) -> bool:
    """Sections that may be added on the command line although the file lacks them."""
    return re.fullmatch(r"data|model|stages\.\d+\.(args|lora|credit|attention|data|eval)(\..+)?", parent) is not None


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} is {value!r}, it has to be a mapping")
    return value


def _one_of(value: str, known: Sequence[str], where: str) -> None:
    if value not in known:
        raise UsageError(f"{where}: unknown value {value!r}{nearest(str(value), list(known))}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]
