"""A reward of one's own: `assets/example/my_reward.py:near_center` in a recipe's `rewards`, or for `rewards try`."""

from math import hypot


def near_center(answer, sample, *, reach: float = 0.2) -> float:
    """1 for the middle of the target, falling to 0 at `reach` of the image's side; 0 for what cannot be read."""
    regions = answer.boxes or answer.points
    if not answer.ok or len(regions) != 1:
        return 0.0
    said, right = (getattr(region, "center", region) for region in (regions[0], sample.target))
    return max(0.0, 1.0 - hypot(said.x - right.x, said.y - right.y) / reach)
