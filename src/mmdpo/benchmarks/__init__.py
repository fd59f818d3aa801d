"""Benchmarks of hallucination: questions, official scoring rules, and numbers with their intervals.

`tasks/` holds one file per benchmark. `evaluate.py` reads answers and scores them, `result_folder.py` writes the
result; they need no model, and neither torch nor transformers.
"""
