"""The tiny models and the batch of the tests of `attention`."""

from tests.attention.conftest import alone_scenes, build, eager_maps, scene

__all__ = ["alone_scenes", "build", "eager_maps", "scene"]
