"""Python that opens the stock pipeline of a base, with other parts in the place of its own."""

from __future__ import annotations

from collections.abc import Mapping

from ..teachers.text_to_image import TextToImageFamily

DEVICE = '"cuda" if torch.cuda.is_available() else "cpu"'


def opening(family: TextToImageFamily, base: str, parts: Mapping[str, str]) -> tuple[str, str]:
    """What to import of diffusers, and statements that make ``pipeline``; ``base`` and ``parts`` are Python."""
    if family.modular_blocks is not None:
        return f"ClassifierFreeGuidance, {family.modular_blocks}", _of_blocks(
            family, family.modular_blocks, base, parts
        )
    told = [base, *(f"{name}={value}" for name, value in parts.items()), "torch_dtype=torch.bfloat16"]
    lines = "".join(f"    {argument},\n" for argument in told)
    return family.pipeline_name, f"pipeline = {family.pipeline_name}.from_pretrained(\n{lines}).to({DEVICE})"


def _of_blocks(family: TextToImageFamily, blocks: str, base: str, parts: Mapping[str, str]) -> str:
    """Modular pipelines load no part before they are told to, and hold a guider, which is to do nothing."""
    dropped = "".join(f'blocks.sub_blocks.pop("{name}")\n' for name in family.left_out)
    told = {**parts, "guider": "ClassifierFreeGuidance(guidance_scale=1.0)"}
    lines = "".join(f"    {name}={value},\n" for name, value in told.items())
    return f"""\
blocks = {blocks}()
{dropped}pipeline = blocks.init_pipeline({base})
pipeline.load_components(["text_encoder", "tokenizer", "vae"], torch_dtype=torch.bfloat16)
pipeline.update_components(
{lines})
pipeline.to({DEVICE})"""
