"""Boxes of what an expression refers to."""
