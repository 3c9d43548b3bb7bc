"""python -m asc.predict: the scene in recordings of any format and length, or before the microphone."""
