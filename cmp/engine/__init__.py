"""What the runner calls: the config as it is read, loops, metrics, hooks, pictures; and checkpoints in and out."""
