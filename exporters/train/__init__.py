"""Training: the loop, its checkpoints, and the ranks of a distributed run."""
