"""Data: prompts, captioned and labelled pictures, and their encodings."""
