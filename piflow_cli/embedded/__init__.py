"""The programs that made the shipped teacher and classifier."""
