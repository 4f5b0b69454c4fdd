"""Photographs cut into tiles."""
