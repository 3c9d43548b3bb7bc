"""Download datasets: python -m asc.download NAME DIR.

`catalog` lists a dataset's files, `transfer` fetches a file, `unpack` unpacks an archive safely, and `folder` does all
this for the files that a dataset's folder lacks.
"""
