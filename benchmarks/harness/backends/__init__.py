"""What answers: a model on this machine, vLLM or a server; and the asking of all questions, resumable."""
