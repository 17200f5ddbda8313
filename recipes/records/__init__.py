"""What a run leaves behind and goes on from: rollouts to look at, its last words and cards, checkpoints."""
