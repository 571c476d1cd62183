"""What a training would take, found out without weights."""
