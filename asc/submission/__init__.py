"""The package of DCASE 2020 Challenge task 1B: `python -m asc.submission --help`."""
