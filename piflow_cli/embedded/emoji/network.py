"""The networks: the stock classes of FLUX's pipeline, small."""

from __future__ import annotations

import diffusers
import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from ...teachers.base import Network
from .recipe import AutoencoderRecipe, FlowRecipe, TransformerRecipe
from .tokenizers import LENGTH


def new_autoencoder(recipe: AutoencoderRecipe) -> Network:
    """Pictures (B, 3, H, W) in [-1, 1] to latents of a quarter of the side, where there are three channels' widths."""
    blocks = len(recipe.channels)
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=recipe.channels,
        layers_per_block=1,
        latent_channels=recipe.latent_channels,
        norm_num_groups=recipe.norm_groups,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
    )


def new_transformer(recipe: TransformerRecipe, latent_channels: int, guidance_embeds: bool) -> Network:
    """A transformer whose blocks add nothing at first, and whose velocity is zero (adaLN-Zero, arXiv 2212.09748)."""
    # Rotations come in pairs. FLUX.1 leaves an eighth of them to a third axis, which is always zero.
    across = 2 * ((recipe.head_width - recipe.head_width // 8) // 4)
    model: Network = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * latent_channels,
        num_layers=recipe.double_blocks,
        num_single_layers=recipe.single_blocks,
        attention_head_dim=recipe.head_width,
        num_attention_heads=recipe.width // recipe.head_width,
        joint_attention_dim=recipe.text_width,
        pooled_projection_dim=recipe.text_width,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(recipe.head_width - 2 * across, across, across),
    )
    modulations = [block.norm.linear for block in model.single_transformer_blocks]
    for block in model.transformer_blocks:
        modulations += [block.norm1.linear, block.norm1_context.linear]
    last = [model.norm_out.linear, model.proj_out]
    if guidance_embeds:
        last.append(model.time_text_embed.guidance_embedder.linear_2)
    for layer in (*modulations, *last):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


class TextEncoders(nn.Module):
    """CLIP's text model for one vector of a caption, and T5's encoder for its tokens."""

    def __init__(self, recipe: TransformerRecipe, clip: PreTrainedTokenizerBase, t5: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(clip),
                hidden_size=recipe.text_width,
                intermediate_size=2 * recipe.text_width,
                projection_dim=recipe.text_width,
                num_hidden_layers=recipe.text_layers,
                num_attention_heads=recipe.text_heads,
                max_position_embeddings=LENGTH,
                bos_token_id=clip.bos_token_id,
                eos_token_id=clip.eos_token_id,
                pad_token_id=clip.pad_token_id,
            )
        )
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(t5),
                d_model=recipe.text_width,
                d_kv=recipe.text_width // recipe.text_heads,
                d_ff=2 * recipe.text_width,
                num_layers=recipe.text_layers,
                num_heads=recipe.text_heads,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
                pad_token_id=t5.pad_token_id,
                eos_token_id=t5.eos_token_id,
            )
        )

    def forward(self, clip_ids: Tensor, t5_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, D) and vectors (B, D) of captions, as FLUX's pipeline asks for them: without masks."""
        return self.t5(t5_ids)[0], self.clip(clip_ids).pooler_output


class TextToImage(nn.Module):
    """The text encoders and the transformer, trained as one."""

    def __init__(self, text: TextEncoders, transformer: Network) -> None:
        super().__init__()
        self.text = text
        self.transformer = transformer


def block_matrices(transformer: Network) -> list[Tensor]:
    """The weights of all linear layers inside the transformer's blocks."""
    blocks = (*transformer.transformer_blocks, *transformer.single_transformer_blocks)
    return [layer.weight for block in blocks for layer in block.modules() if isinstance(layer, nn.Linear)]


def velocity(
    transformer: nn.Module, x: Tensor, sigma: Tensor, text: tuple[Tensor, Tensor], guidance: Tensor | None = None
) -> Tensor:
    """u = eps - x_0 of packed latents ``x`` (B, side * side, C) at noise levels ``sigma`` (B,), float32."""
    tokens, vector = text
    side = int(x.shape[1] ** 0.5)
    rows, columns = torch.meshgrid(*[torch.arange(side, device=x.device)] * 2, indexing="ij")
    positions = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1).float()
    return transformer(
        hidden_states=x,
        timestep=sigma,
        guidance=guidance,
        encoder_hidden_states=tokens,
        pooled_projections=vector,
        img_ids=positions,
        txt_ids=positions.new_zeros(tokens.shape[1], 3),
        return_dict=False,
    )[0].float()


def new_scheduler(recipe: FlowRecipe) -> Network:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=recipe.shift, use_dynamic_shifting=False)
