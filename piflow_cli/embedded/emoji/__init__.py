"""How the `emoji` teacher was made: a small FLUX of Noto's emoji, from pictures and names to a stock pipeline's folder.

    python -m piflow_cli.embedded.emoji --package emoji-datasource-google-16.0.0.tgz --work WORK --output DIR

The stages follow each other, and each is skipped where it is done: ``data`` (pictures, captions, tokenizers),
``autoencoder``, ``text`` (encoders that predict the pictures), ``teacher`` (classifier-free guidance, two halves),
``guidance`` (distilled into the guidance input), ``write`` (folders that a stock FluxPipeline loads) and ``grid``
(pictures to look at).
"""
