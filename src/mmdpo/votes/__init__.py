"""Blind votes of people on the answers of two or more evaluated runs: the paper's human evaluation (Figure 4).

study.py    the runs and items that are voted on; in which order a rater sees them, and which answer on which side
store.py    the votes, in one SQLite file
exchange.py votes as CSV, out of a store and into another
report.py   win, tie and lose with intervals, agreement among raters, Bradley–Terry
"""
