"""From answers to verdicts, and from verdicts to figures with intervals."""
