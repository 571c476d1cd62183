"""Students: the facts that travel with them, the networks, and their files."""
