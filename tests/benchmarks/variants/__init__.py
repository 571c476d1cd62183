"""Ideas that need code of their own: each replaces or wraps one piece of piflow, in a process of its own.

:mod:`idea_variants` has the table of them; what is in none of its rows is in piflow itself.
"""
