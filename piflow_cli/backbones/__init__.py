"""Networks that diffusers does not carry in the form the published checkpoints need."""
