"""Annotated photographs as other tools export them -> this project's layout."""
