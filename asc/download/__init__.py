"""Download datasets: python -m asc.download NAME DIR.

`catalog` lists a dataset's files, `transfer` downloads a file, and `folder` checks and unpacks what its folder lacks.
"""
