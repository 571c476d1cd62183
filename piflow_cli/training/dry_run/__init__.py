"""Memory and disk of a training, found out without weights."""
