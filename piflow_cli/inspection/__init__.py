"""Inspection: what a student's policies decided, beside its teacher."""
