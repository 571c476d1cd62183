"""Code that travels beside exported weights, so that diffusers runs them where piflow is not installed."""
