"""How a classifier is trained: checkpoints, history, several processes, memory."""
