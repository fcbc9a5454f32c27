"""How it is learned: stages, one after the other."""
