"""Stages in which a model makes or chooses its own data: rollouts are drawn, scored, and kept, paired or learned."""
