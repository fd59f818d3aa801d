"""Benchmarks of hallucination: questions, official scoring rules, and numbers with their intervals.

`tasks/` holds one file per benchmark. `evaluate.py` reads answers, scores them and writes the result; it needs no
model, and neither torch nor transformers.
"""
