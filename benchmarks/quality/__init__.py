"""Comparisons of the store with what people use today: one module a job, on draws that chose no setting.

Settings of the store and of every baseline are chosen on draws 0 to 2 (`--tune` writes what was tried), and
reported on draws 3 to 5. Differences are paired: on the same draw, with two standard errors.
"""
