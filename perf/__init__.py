"""How fast the training step is and how much memory it takes, beside the ways it is otherwise done.

`shapes.py` says what is measured, `rows.py` makes the preference pairs, `original.py` and `sides.py` hold those who
compete, `measure.py` the clock, `cpu.py` and `gpu.py` the two measurements, `render.py` the page that tells of them.
"""
