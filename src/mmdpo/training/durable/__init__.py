"""What makes a run durable: sealed checkpoints, stopping on SIGTERM, and resuming exactly."""
