"""One detector, one training run, and all that is done with its result."""
