"""What was meant: the classes of an experiment, and what an utterance says of them."""
