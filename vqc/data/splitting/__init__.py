"""One folder into train, val and test: where each group of photographs goes, and the folder that is written."""
