"""What is learned: each task binds a target, a loss and a score."""
