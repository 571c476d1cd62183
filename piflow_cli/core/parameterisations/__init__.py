"""What networks predict, and how they are told state and time. Each kind has a file; the table is in `.kinds`."""
