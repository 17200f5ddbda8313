"""Open what answers: a local model, vLLM, or an endpoint. Importing this imports torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from accelerate import PartialState

from benchmarks.harness.endpoint import Endpoint
from benchmarks.harness.generate import Backend
from benchmarks.harness.local import LocalModel
from benchmarks.harness.vllm_backend import VllmModel
from models.loading import load_policy
from models.profile import Profile


def processes() -> tuple[tuple[int, int], Callable[[], None]]:
    """(index, count) of this process and a barrier; one process unless `accelerate launch` started several."""
    state = _state()
    return (state.process_index, state.num_processes), state.wait_for_everyone


def _state() -> PartialState:
    # Without `cpu`, accelerate takes several processes on a machine without GPU for strangers to each other.
    return PartialState(cpu=not torch.cuda.is_available())


def open_backend(args: argparse.Namespace, profile: Profile) -> Backend:
    """The backend the command line asks for.

    Raises:
        UsageError: the model cannot be loaded, or vLLM is not installed.
    """
    if args.endpoint:
        return Endpoint(args.endpoint, args.model, image_first=profile.image_first, system=profile.system)
    if args.backend == "vllm":
        return VllmModel(
            args.model,
            args.min_pixels,
            args.max_pixels,
            args.trust_remote_code,
            image_first=profile.image_first,
            system=profile.system,
        )
    model, processor = load_policy(
        args.model,
        dtype=args.dtype,
        attn_implementation=args.attn,
        device=args.device or _state().device,
        min_pixels=args.min_pixels,
        max_pixels=args.max_pixels,
        allow_pickle=args.allow_pickle,
        trust_remote_code=args.trust_remote_code,
    )
    return LocalModel(model, processor, profile.image_first, system=profile.system)
