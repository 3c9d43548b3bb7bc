"""python -m asc.benchmark: time this package against other libraries and against hardware bounds."""
