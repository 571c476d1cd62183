"""What text-to-image families share: classes of diffusers by name, one layout of latents, cached prompts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..errors import UsageError
from ..presets.families import guided_otherwise, shown_a_picture
from ..weights.digests import shipped_digest
from ..weights.locate import ENCODERS, hub_id, locate, network_folder
from ..weights.quantisation import quantised_loading
from .base import Conditioning, Network, TeacherFamily
from .encoders import REFERENCE, EncoderFactory, latent_shape, negative_of, reference_of
from .folders import config_folder
from .loading import load_model
from .packing import pack, unpack
from .sizes import tokens_read, vae_factor
from .stock_encoders import StockEncoders
from .strangers import another_model
from .text_parts import encoder_bytes, missing_parts, no_text_encoder, text_encoders

if TYPE_CHECKING:
    from ..presets.schema import TeacherSection


class TextToImageFamily(TeacherFamily):
    """A network of diffusers and the stock pipeline that samples from it, in which it is called ``component``.

    ``pipeline_options``: arguments of its class besides the parts. ``casts_noise``: it gives noise the texts' dtype.

    ``left_out``: parts of the pipeline that write other texts, which are not read here.

    ``sees``: its text encoders are shown the reference picture too: ``encode_prompts`` and ``token_counts`` take the
    pictures of the texts besides. ``one_at_a_time``: its stock pipeline makes a single sample a call.
    ``frame_rate``: frames a second of its videos; None: it makes pictures.

    ``token_positions``: latent positions per token where the pipeline packs latents, None where the model does.
    ``text_length``: tokens that a prompt is cut to. ``vae_factor``: pixels a latent position spans, each way. Both are
    those of the published bases, until :meth:`sized_by` has seen another. ``length_from``: the tokenizer whose own
    limit bounds a prompt too.
    """

    pipeline_name: ClassVar[str]
    component: ClassVar[str] = "transformer"
    casts_noise: ClassVar[bool] = True
    pipeline_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    left_out: ClassVar[tuple[str, ...]] = ()
    sees: ClassVar[bool] = False
    one_at_a_time: ClassVar[bool] = False
    frame_rate: ClassVar[int | None] = None
    token_positions: ClassVar[int | None]
    text_length: int
    length_from: ClassVar[str | None] = None
    vae_name: ClassVar[str] = "AutoencoderKL"
    vae_factor: int = 8
    # A picture takes minutes, where one of a class takes none.
    fine_steps = 50
    beside_steps = 32

    def sized_by(self, folder: Path) -> Self:
        """This family with the sizes of the base in ``folder``; those that it does not state stay as they are.

        Raises RunError where a config in it is damaged.
        """
        sized = copy(self)
        factor = vae_factor(folder)
        length = None if self.length_from is None else tokens_read(folder, self.length_from)
        sized.vae_factor = self.vae_factor if factor is None else factor
        sized.text_length = self.text_length if length is None else min(self.text_length, length)
        return sized

    @property
    def size_multiple(self) -> int:
        """The number of pixels that the sides of a picture are multiples of; a token is two latent positions wide."""
        return 2 * self.vae_factor

    @property
    def frame_step(self) -> int | None:
        """Frames of a video that share a latent position, but the first, which has its own; None: it makes pictures."""
        return None

    @property
    def model_class(self) -> Any:
        """The transformer's class."""
        return _from_diffusers(self.model_name)

    def load(self, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
        self._config(folder)
        return load_model(self.model_class, network_folder(folder), dtype)

    def load_quantised(self, folder: Path, precision: str, keep: Sequence[str]) -> nn.Module:
        self._config(folder)
        return load_model(
            self.model_class, network_folder(folder), torch.bfloat16, **quantised_loading(precision, keep)
        )

    def outline(self, folder: Path) -> nn.Module:
        with torch.device("meta"):
            return self.build(self._config(folder))

    def _config(self, folder: Path) -> dict:
        """The config in ``folder``; raises UsageError where it is another model's or none."""
        try:
            config = self.model_class.load_config(network_folder(folder))
        except OSError as error:
            raise UsageError(
                f"there is no model in {folder}", "name the folder of a pipeline or a transformer: --base PATH"
            ) from error
        if config["_class_name"] != self.model_name:
            raise another_model(folder, config["_class_name"], self.model_name)
        if "guidance_embeds" in config and config["guidance_embeds"] != self.embeds_guidance:
            takes = "takes the guidance scale as an input" if config["guidance_embeds"] else "takes no guidance scale"
            raise UsageError(
                f"the {self.model_name} in {folder} {takes}, unlike those of the family {self.name}",
                f"choose the preset of that model, another base{guided_otherwise(self.name)}",
            )
        return config

    def build(self, config: dict) -> nn.Module:
        return self.model_class.from_config(config).eval()

    def unconditional(self, model: Network, conditioning: Conditioning) -> Conditioning:
        return {**negative_of(conditioning), **reference_of(conditioning)}

    @property
    def shown(self) -> bool:
        """Whether its networks are shown a reference picture too: :data:`~.encoders.REFERENCE` of the conditioning."""
        return shown_a_picture(self.name)

    def reference_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height at which the reference is encoded of what is made at ``size``."""
        return size

    def longest_reference(self, shape: Sequence[int]) -> Conditioning:
        """Shape of the reference of one sample, where there is one; ``shape`` (C, h, w): of its state."""
        if not self.shown:
            return {}
        channels, *sides = shape
        width, height = self.reference_size((sides[1] * self.vae_factor, sides[0] * self.vae_factor))
        rows, columns = height // self.vae_factor, width // self.vae_factor
        return {REFERENCE: torch.empty(1, channels, rows, columns, device="meta")}

    def latent_channels(self, config: Mapping[str, Any]) -> int:
        """C of the latents (B, C, H, W) of a model with this config; a network that packs them takes more channels."""
        return config[self.input_field]

    def latent_shape(
        self, config: Mapping[str, Any], size: tuple[int, int], frames: int | None = None
    ) -> tuple[int, ...]:
        """Shape (C, *S) of the latents of a picture of width and height ``size``, or of a video of ``frames``."""
        return latent_shape(self.latent_channels(config), self.vae_factor, size, frames, self.frame_step)

    def encoders(self, section: TeacherSection) -> EncoderFactory:
        """The text encoders and VAE of the stock pipeline of a preset's teacher."""
        folder, configs = Path(section.base), config_folder(section)
        # What a base on the Hub is made of is not what ships of it.
        sized, shipped = self.sized_by(configs), None if hub_id(section.base) else shipped_digest(configs, ENCODERS)
        return EncoderFactory(
            identity={
                "model": str(folder.resolve()) if folder.exists() else section.base,
                "revision": "newest" if section.revision is None else section.revision,
                "pipeline": self.pipeline_name,
                "text": f"{sized.text_length} tokens, bfloat16",
                "latents": "mean and std of the posterior, float32",
                # A name of ours stays, while its files may change with piflow.
                **({} if shipped is None else {"files": shipped}),
            },
            latent_channels=self.latent_channels(self._config(configs)),
            downsampling=sized.vae_factor,
            size_multiple=sized.size_multiple,
            shown=self.shown,
            frame_step=sized.frame_step,
            frame_rate=sized.frame_rate,
            sees=self.sees,
            reference_size=sized.reference_size,
            open=lambda device, offload: StockEncoders(
                sized, locate(section.base, section.revision, ENCODERS), device, offload
            ),
        )

    @abstractmethod
    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        """Conditioning of each text by the stock pipeline's own ``encode_prompt``, without a batch axis."""

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        """Tokens of each text in the stock pipeline, uncut by ``text_length``; its chat template counts."""
        return [len(pipeline.tokenizer(text).input_ids) for text in texts]

    def encode_images(self, vae: Network, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, *S) of the normalised latents of ``images`` (B, 3, H, W) in [-1, 1].

        Of videos (B, 3, frames, H, W).
        """
        posterior = vae.encode(images).latent_dist
        mean, std = self.latent_statistics(vae, posterior.mean)
        return (posterior.mean - mean) / std, posterior.std / std

    def decode_latents(self, vae: Network, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of normalised ``latents`` (B, C, h, w)."""
        mean, std = self.latent_statistics(vae, latents)
        return vae.decode(latents * std + mean).sample

    def latent_statistics(self, vae: Network, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of latents, by which they are normalised, to be broadcast against ``latents``."""
        return latents.new_tensor(vae.config.shift_factor), latents.new_tensor(1 / vae.config.scaling_factor)

    def load_vae(self, folder: Path) -> nn.Module:
        """The VAE beside the transformer, float32, in evaluation mode."""
        return load_model(_from_diffusers(self.vae_name), folder / "vae", torch.float32)

    @property
    def pipeline_class(self) -> Any:
        """The stock pipeline's class."""
        # diffusers leaves a placeholder where transformers is missing; the import itself names what is missing.
        import transformers  # noqa: F401

        return _from_diffusers(self.pipeline_name)

    def pipeline(self, model: Network, scheduler: Any) -> Any:
        """The stock pipeline around ``model``, without text encoder and VAE."""
        kind = self.pipeline_class
        parts = dict.fromkeys(kind._get_signature_keys(kind)[0])
        return kind(**{**parts, **self.parts(model), "scheduler": scheduler}, **self.pipeline_options)

    @property
    def own_parts(self) -> Mapping[str, str]:
        """By what the stock pipeline calls each network of the teacher, the beginning of its names in ours."""
        return {self.component: ""}

    def networks(self, model: Network) -> Mapping[str, Network]:
        return {start: model.get_submodule(start[:-1]) if start else model for start in self.own_parts.values()}

    def parts(self, model: Network) -> dict[str, Network]:
        """The networks of ``model`` by their names in the stock pipeline."""
        return dict(zip(self.own_parts, self.networks(model).values(), strict=True))

    def saved(self, call: str, name: str) -> tuple[str, str]:
        """A line of imports, and a statement that saves what the ``call`` of the stock pipeline makes as ``name``."""
        return "", f'{call}.images[0].save("{name}.png")'

    def to_pipeline(self, x: Tensor) -> Tensor:
        """Noise (B, C, H, W) as the stock pipeline takes it."""
        return x if self.token_positions is None else pack(x)

    def from_pipeline(self, latents: Tensor, rows: int, columns: int) -> Tensor:
        """Latents as the stock pipeline returns them → (B, C, rows, columns)."""
        return latents if self.token_positions is None else unpack(latents, rows, columns)

    def asked_size(self, height: int, width: int) -> dict[str, int]:
        """The stock pipeline's arguments for the size in pixels."""
        return {"height": height, "width": width}

    def pipeline_size(self, pipeline: Any, x: Tensor) -> dict[str, int]:
        """The stock pipeline's arguments for the size of what becomes of noise ``x``, in pixels."""
        rows, columns = x.shape[-2:]
        # Its own, which is not that of the base where the pipeline has no VAE.
        factor = pipeline.vae_scale_factor
        return self.asked_size(rows * factor, columns * factor)

    @abstractmethod
    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        """The stock pipeline's arguments for a batch: texts and guidance; with ``negative_`` entries it guides."""

    def text_encoder_bytes(self, folder: Path, offload: bool) -> int | None:
        """Bytes of the text encoders in bfloat16 by their configs in ``folder``; None where there are none to read.

        ``offload``: of the two largest layers, since the next one is fetched while one computes.
        """
        return encoder_bytes(folder, offload)

    def text_pipeline(self, folder: Path) -> Any:
        """The stock pipeline with text encoders alone, in bfloat16; raises UsageError where ``folder`` lacks them."""
        if missing := missing_parts(folder):
            raise no_text_encoder(folder, missing)
        absent = dict.fromkeys((*self.own_parts, "vae", *self.left_out))
        return self.pipeline_class.from_pretrained(
            folder, **absent, **text_encoders(folder), torch_dtype=torch.bfloat16
        )


def _from_diffusers(name: str) -> Any:
    # The pipelines import transformers, which takes seconds: only what is asked for is imported.
    import diffusers

    return getattr(diffusers, name)
