"""What the network decided: a policy read like a map, and set beside its teacher."""
