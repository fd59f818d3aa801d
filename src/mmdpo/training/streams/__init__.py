"""Training on a stream: its batches, its faulty rows, and the exact position in it."""
