"""More calls of the same model for a better point, at test time."""
