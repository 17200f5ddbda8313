"""The HTML report of a run: one self-contained file, made from the run folder alone."""
