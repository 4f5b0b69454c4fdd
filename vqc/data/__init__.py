"""Photographs and annotations: read, checked, drawn, and turned into batches."""
