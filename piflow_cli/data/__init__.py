"""Data: prompts, captioned and labelled pictures, and what encoders made of them."""
