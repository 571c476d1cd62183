"""How the teacher and the classifier that are shipped were made."""
