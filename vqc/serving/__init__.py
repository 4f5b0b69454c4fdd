"""The inspection server: photographs in, verdicts out, with their history and the operators' corrections."""
