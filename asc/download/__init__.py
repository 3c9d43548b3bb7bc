"""Download datasets: python -m asc.download NAME DIR. `catalog` lists a dataset's files, `transfer` fetches them."""
