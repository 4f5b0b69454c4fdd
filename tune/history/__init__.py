"""What happened in a search, and questions to it."""
