"""MLflow and the profiler."""
