"""A window in which a student is tried: pictures beside its teacher's, and what its policy decided."""
