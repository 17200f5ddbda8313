"""Policies: finding, loading, prompting and sampling them, computing once what rollouts share; the client of a chat
endpoint; the tiny embedded model."""
