"""Attention-aware credit: which tokens of a response deserve the reward.

    tokens       what the text says about each response token: coordinates, sentences, named regions
    strategies   pure functions (signals, mask) -> weights (B, T), by name
    config       the `credit:` section of a recipe
    assigner     ties them to the signals of `attention`, for the trainer
    policy, show, describe   what its commands do

Axis letters: as in `attention`.
"""
