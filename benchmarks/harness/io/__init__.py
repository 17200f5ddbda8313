"""Files: official annotations, predictions of anybody, results."""
