"""Open what answers: a local model, vLLM, or an endpoint. Importing this imports torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from omegaconf import OmegaConf

from benchmarks.harness.backends.episode_model import EpisodeModel
from benchmarks.harness.backends.generate import Backend
from benchmarks.harness.backends.local_model import LocalModel
from benchmarks.harness.backends.served_model import MIN_PIXELS, EndpointBackend
from benchmarks.harness.backends.vllm_model import VllmModel
from benchmarks.harness.items import BenchmarkItem
from grounding.completion import check_grammar
from grounding.errors import UsageError
from grounding.fingerprint import data_fingerprint, model_fingerprint
from grounding.redact import redact
from models.chat_client import key_from
from models.loading import load_policy
from models.profile import Profile
from tools.section import ToolsConfig


def processes() -> tuple[tuple[int, int], Callable[[], None]]:
    """(index, count) of this process and a barrier; one process unless `accelerate launch` started several."""
    state = _state()
    return (state.process_index, state.num_processes), state.wait_for_everyone


def _state() -> PartialState:
    # Without `cpu`, accelerate takes several processes on a machine without GPU for strangers to each other.
    return PartialState(cpu=not torch.cuda.is_available())


def fingerprint(
    args: argparse.Namespace, backend: Backend, profile: Profile, items: Sequence[BenchmarkItem], image_root: Path
) -> dict[str, Any]:
    """What decides the answers, beside the questions and the decoding; worked out by the first process for all."""
    state = _state()
    told = [_fingerprint(args, backend, profile, items, image_root) if state.is_main_process else {}]
    if state.num_processes > 1:
        broadcast_object_list(told)
    return told[0]


def _fingerprint(
    args: argparse.Namespace, backend: Backend, profile: Profile, items: Sequence[BenchmarkItem], image_root: Path
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "backend": backend.name,
        "method": args.method,
        "profile": asdict(profile),
        "min_pixels": args.min_pixels,
        "max_pixels": args.max_pixels,
        "data": data_fingerprint(images=(p.path for item in items for p in item.images), root=image_root),
    }
    if args.endpoint:
        return {**found, "endpoint": redact(args.endpoint), "model": {"name": args.model}}
    found["model"] = model_fingerprint(args.model)
    if isinstance(backend, EpisodeModel):
        found["tools"], backend = backend.toolbox.config.model_dump(mode="json"), backend.inner
    if isinstance(backend, LocalModel):
        config = backend.model.config
        return {
            **found,
            "dtype": str(backend.model.dtype),
            "attention": config.get_text_config()._attn_implementation,
        }
    return {**found, "dtype": args.dtype}


def open_backend(args: argparse.Namespace, profile: Profile, source: str | None) -> Backend:
    """The backend the command line asks for.

    Args:
        source: what to load the model from; None for an endpoint.

    Raises:
        UsageError: the model cannot be loaded, vLLM is not installed, or the key's variable is not set.
    """
    if source is None:
        return EndpointBackend(
            args.endpoint,
            args.model,
            key_from(args.key_variable or ""),
            image_first=profile.image_first,
            system=profile.system,
            pixels=None if args.max_pixels is None else (args.min_pixels or MIN_PIXELS, args.max_pixels),
        )
    if args.backend == "vllm":
        return VllmModel(
            source,
            args.min_pixels,
            args.max_pixels,
            args.trust_remote_code,
            dtype=args.dtype,
            image_first=profile.image_first,
            system=profile.system,
            grammar=check_grammar(profile.grammar),
        )
    model, processor = load_policy(
        source,
        dtype=args.dtype,
        attn_implementation=args.attn,
        device=args.device or _state().device,
        min_pixels=args.min_pixels,
        max_pixels=args.max_pixels,
        allow_pickle=args.allow_pickle,
        trust_remote_code=args.trust_remote_code,
    )
    local = LocalModel(
        model, processor, profile.image_first, system=profile.system, grammar=check_grammar(profile.grammar)
    )
    return local if args.tools is None else EpisodeModel(local, tools_of(args.tools), profile)


def tools_of(given: str) -> ToolsConfig:
    """The tools a flag asks for: names, a mapping in YAML's short form, or a recipe's file, whose last tools count.

    Raises:
        UsageError: no such tool, key or file, or a recipe without tools.
    """
    if not given.endswith((".yaml", ".yml")):
        return ToolsConfig.from_given(OmegaConf.to_container(OmegaConf.create(given)) if "{" in given else given)
    file = Path(given)
    if not file.is_file():
        raise UsageError(f"--tools {given}: no such file")
    stages = OmegaConf.to_container(OmegaConf.load(file)).get("stages") or []
    found = [stage["tools"] for stage in stages if stage.get("tools")]
    if not found:
        raise UsageError(f"--tools {given}: no stage of this recipe has tools")
    return ToolsConfig.from_given(found[-1])
