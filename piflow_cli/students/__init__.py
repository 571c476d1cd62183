"""Students: what they say of themselves, the networks, and their files."""
