"""python -m asc.report: finished runs compared, in a table and a plot."""
