"""What is tried next and what is stopped: pure functions of the history."""
