"""Code that travels beside exported weights, for diffusers where piflow is not installed."""
