"""Students in the formats of others: one file a format, and a driver that
writes, reads back, compares and publishes."""
