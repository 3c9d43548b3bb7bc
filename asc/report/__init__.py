"""python -m asc.report: compare finished runs in a table and a plot."""
