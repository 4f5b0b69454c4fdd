"""Detectors: the registry, how they are built, their weights and files."""
