"""A paper's table measured again: every row trained, ours printed beside what was published."""
