"""The phases of compress.py: what is done to a trained classifier, each a callback of its fine-tuning."""
