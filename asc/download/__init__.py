"""Download datasets: python -m asc.download NAME DIR.

`catalog` knows what a dataset consists of, `transfer` fetches a file, `unpack` unpacks an archive safely, and `parts`
puts the three together for each file of a dataset.
"""
