"""Attention-aware credit: which tokens of a response deserve the reward.

    tokens       what the text says about each response token: coordinates, sentences, named regions
    strategies   pure functions (signals, mask) -> weights (B, T), by name
    assigner     ties them to the signals of `attention`, for the trainer

Axis letters: as in `attention`.
"""
