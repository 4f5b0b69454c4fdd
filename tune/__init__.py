"""The search over training runs: a journal in the middle, everything else reads it."""
