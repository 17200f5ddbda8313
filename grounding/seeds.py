"""One root seed for a run; every use of chance derives its own from it."""

from __future__ import annotations

from grounding.fingerprint import digest


def derived(root: int, *use: str | int) -> int:
    """A seed in [0, 2**63) for one use of a root seed: another for other words, ranks and steps.

    It depends on its arguments alone, so a resumed run draws what an uninterrupted one would.

    >>> derived(0, "noise", 0, 1) != derived(0, "noise", 1, 1)
    True
    """
    return int(digest([root, *use]), 16) % 2**63
