"""What a search shows: terminal, report, MLflow. Read-only."""
