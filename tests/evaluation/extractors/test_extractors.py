from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from doc_blocks import ROOT
from helpers import seeded
from inception import FILE, save_random_inception
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from piflow_cli.data.labelled_images import load_images
from piflow_cli.embedded.digits_classifier import HELD_OUT, PROGRAM, ClassifierRecipe, accuracy, split, train
from piflow_cli.errors import RunError, UsageError
from piflow_cli.evaluation.extractors import centre_patches, open_extractor
from piflow_cli.evaluation.extractors.digits_classifier import load_classifier
from piflow_cli.evaluation.metrics.clip_score import ClipScore
from piflow_cli.presets.resolve import presets_root

CPU = torch.device("cpu")


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=seeded(seed)) * 2 - 1


def test_pixels_are_neither_clipped_nor_rounded() -> None:
    states = 3 * torch.randn(2, 1, 2, 2, generator=seeded())
    extractor = open_extractor("pixels", CPU)
    assert torch.equal(extractor.features(states), states.flatten(1)) and extractor.logits(states) is None


@pytest.mark.parametrize("name", ["pixel", "dinov2", "dinov2:", "inception:x"])
def test_an_unknown_extractor_is_told_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="there is no extractor") as caught:
        open_extractor(name, CPU)
    assert "digits-classifier" in caught.value.hint


def test_inception_weights_for_another_extractor_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pixels takes no Inception weights"):
        open_extractor("pixels", CPU, tmp_path / FILE)


# The digits classifier


def test_the_shipped_classifier_is_as_right_as_its_metadata_say() -> None:
    path = presets_root() / "digits" / "classifier.safetensors"
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
    images, labels = load_images(presets_root() / "digits" / "images.safetensors")
    _, held_out = split(len(images))
    right = accuracy(load_classifier(), images[held_out], labels[held_out])
    assert right == pytest.approx(float(facts["held_out_accuracy"]), abs=1e-4) and right > 0.98
    assert json.loads(facts["recipe"]) == vars(ClassifierRecipe()) and facts["program"] == PROGRAM
    told = (presets_root() / "digits" / "ATTRIBUTION.md", ROOT / "docs" / "pages" / "evaluation.md")
    assert all(f"{100 * right:.1f} % right" in path.read_text(encoding="utf-8") for path in told)
    assert PROGRAM in told[0].read_text(encoding="utf-8")
    assert path.stat().st_size < 300_000


def test_training_and_held_out_images_share_none() -> None:
    training, held_out = split(20)
    assert sorted(torch.cat([training, held_out]).tolist()) == list(range(20))
    assert held_out.tolist() == list(range(0, 20, HELD_OUT))


def test_training_the_classifier_twice_gives_the_same_weights() -> None:
    images, labels = load_images(presets_root() / "digits" / "images.safetensors")
    recipe = ClassifierRecipe(iterations=3, batch_size=16)
    first, second = (train(recipe, images[:50], labels[:50]).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_digits_features_lead_to_the_classes() -> None:
    images, labels = load_images(presets_root() / "digits" / "images.safetensors")
    extractor = open_extractor("digits-classifier", CPU)
    features = extractor.features(images[:200])
    assert features.shape == (200, 64) and features.dtype == torch.float32
    assert (extractor.logits(features).argmax(dim=1) == labels[:200]).double().mean() > 0.98
    torch.testing.assert_close(extractor.features(images[:3].expand(-1, 3, -1, -1)), features[:3], rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="pictures of 8 x 8, not 9 x 8"):
        extractor.features(pictures(1, 1, 8, 9))


# Inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_random_inception(tmp_path_factory.mktemp("inception"))


@pytest.mark.parametrize("name", ["inception", "inception-tf"])
def test_inception_sees_pictures_as_they_would_be_in_a_file(name: str, weights: Path) -> None:
    """Half a grey level more or less, values outside and a third channel that repeats the first change nothing."""
    extractor = open_extractor(name, CPU, weights, trust=True)
    levels = torch.randint(0, 256, (2, 1, 20, 30), generator=seeded()).float()
    features = extractor.features(levels / 127.5 - 1)
    assert features.shape == (2, 2048) and features.dtype == torch.float32
    assert torch.equal(extractor.features((levels + 0.3).expand(-1, 3, -1, -1) / 127.5 - 1), features)
    black = torch.full((1, 1, 20, 30), -1.0)
    assert torch.equal(extractor.features(black * 2), extractor.features(black))


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*:FutureWarning")
def test_inception_s_logits_are_its_own_without_the_last_bias(weights: Path) -> None:
    extractor = open_extractor("inception-tf", CPU, weights, trust=True)
    images = pictures(3, 3, 16, 16)
    levels = ((images + 1) * 127.5).round()
    expected = torch.jit.load(str(weights))(levels, no_output_bias=True)
    torch.testing.assert_close(
        extractor.logits(extractor.features(images)).softmax(dim=1), expected, rtol=1e-4, atol=1e-7
    )


def test_patches_are_the_middle_at_full_resolution(weights: Path) -> None:
    extractor = open_extractor("inception", CPU, weights, trust=True)
    patches = centre_patches(extractor)
    images = pictures(1, 3, 301, 320)
    assert patches.name == extractor.name and "299" in patches.resize and patches.resize != extractor.resize
    assert torch.equal(patches.features(images), extractor.features(images[..., 1:300, 10:309]))
    with pytest.raises(UsageError, match="a picture has 320 x 298"):
        patches.features(images[..., :298, :])


# DINOv2 and CLIP


@pytest.fixture(scope="module")
def dino(tmp_path_factory) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**size)).save_pretrained(folder)
    return folder


def test_dino_features_are_the_class_token_of_what_pillow_resizes(dino: Path) -> None:
    from transformers import Dinov2Model

    extractor = open_extractor(f"dinov2:{dino}", CPU)
    images = pictures(2, 3, 40, 30)
    features = extractor.features(images)
    assert features.shape == (2, 16) and extractor.name == f"dinov2:{dino}" and extractor.logits(features) is None
    levels = ((images + 1) * 127.5).round()
    channels = [
        Image.fromarray(channel).resize((224, 224), Image.Resampling.BICUBIC)
        for channel in levels.flatten(0, 1).numpy()
    ]
    expected = torch.from_numpy(np.stack(channels)).unflatten(0, (2, 3)).clamp(0, 255) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    network = Dinov2Model.from_pretrained(dino).eval()
    with torch.no_grad():
        token = network(pixel_values=(expected - mean) / std).last_hidden_state[:, 0]
    torch.testing.assert_close(features, token, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefgh"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **size,
        "vocab_size": len(tokens),
        "max_position_embeddings": 16,
        "eos_token_id": len(tokens) - 1,
        "bos_token_id": len(tokens) - 2,
    }
    config = CLIPConfig(text_config=text, vision_config={**size, "image_size": 28, "patch_size": 14}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def test_texts_that_clip_does_not_read_to_their_ends_are_known(clip: Path, capfd) -> None:
    """14 letters, a beginning and an end fill the 16 places."""
    score = ClipScore(str(clip), CPU)
    assert score.long_texts(["a b", "a " * 14, "a " * 15]) == {"a " * 15: "17 tokens, of which 16 are read"}
    assert "sequence length" not in capfd.readouterr().err


def test_clip_scores_are_the_cosines_of_the_two_embeddings(clip: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    images, texts = pictures(3, 3, 40, 30), ["a b", "cab", "a " * 40]
    scores = ClipScore(str(clip), CPU).scores(images, texts)
    network, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    levels = ((images + 1) * 127.5).round().to(torch.uint8)
    for image, text, score in zip(levels, texts, scores):
        inputs = processor(text=[text], images=[image], return_tensors="pt", truncation=True)
        with torch.no_grad():
            output = network(**inputs)
        # The logits are cosines times the temperature.
        assert score.item() == pytest.approx((output.logits_per_image / network.logit_scale.exp()).item(), abs=1e-5)


def test_a_folder_of_another_model_is_refused(dino: Path, clip: Path) -> None:
    with pytest.raises(UsageError, match="of the type clip, not dinov2"):
        open_extractor(f"dinov2:{clip}", CPU)
    with pytest.raises(UsageError, match="of the type dinov2, not clip"):
        ClipScore(str(dino), CPU)


def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(dino: Path, clip: Path, tmp_path: Path) -> None:
    for folder, opened in (
        (clip, lambda path: ClipScore(path, CPU)),
        (dino, lambda path: open_extractor(f"dinov2:{path}", CPU)),
    ):
        copy = shutil.copytree(folder, tmp_path / folder.name)
        stored = load_file(copy / "model.safetensors")
        gone = sorted(name for name in stored if name.endswith("weight"))[0]
        save_file(
            {name: value for name, value in stored.items() if name != gone},
            copy / "model.safetensors",
            {"format": "pt"},
        )
        with pytest.raises(RunError, match=f"lack {re.escape(gone)}"):
            opened(str(copy))
        (copy / "model.safetensors").unlink()
        with pytest.raises(RunError, match="cannot be read"):
            opened(str(copy))


def pickled(folder: Path, copy: Path, content: object = None) -> Path:
    """``folder`` with the weights, or ``content`` in their place, in
    pytorch_model.bin alone, as older repositories have them."""
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(tensors if content is None else content, copy / "pytorch_model.bin")
    return copy


def test_weights_that_are_there_as_a_pickle_alone_give_the_same_numbers(dino: Path, clip: Path, tmp_path: Path) -> None:
    images, texts = pictures(3, 3, 40, 30), ["a b", "cab", "a"]
    copy = pickled(clip, tmp_path / "clip")
    expected = ClipScore(str(clip), CPU).scores(images, texts)
    torch.testing.assert_close(ClipScore(str(copy), CPU).scores(images, texts), expected)
    features = [
        open_extractor(f"dinov2:{path}", CPU).features(images) for path in (dino, pickled(dino, tmp_path / "dino"))
    ]
    torch.testing.assert_close(*features)
    # Shards of pickles, by their index.
    tensors = torch.load(copy / "pytorch_model.bin", weights_only=True)
    (copy / "pytorch_model.bin").unlink()
    names = {name: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, name in enumerate(tensors)}
    for file in set(names.values()):
        torch.save({name: value for name, value in tensors.items() if names[name] == file}, copy / file)
    (copy / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    torch.testing.assert_close(ClipScore(str(copy), CPU).scores(images, texts), expected)


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_refused_and_never_run(dino: Path, clip: Path, tmp_path: Path) -> None:
    for folder, opened in (
        (clip, lambda path: ClipScore(path, CPU)),
        (dino, lambda path: open_extractor(f"dinov2:{path}", CPU)),
    ):
        copy = pickled(folder, tmp_path / folder.name, {"weight": torch.ones(1), "code": Planted(tmp_path / "ran")})
        with pytest.raises(
            RunError, match=r"pytorch_model\.bin: .*more than tensors, which piflow never runs"
        ) as caught:
            opened(str(copy))
        assert (
            caught.value.hint == "name another model, or one saved as safetensors" and not (tmp_path / "ran").exists()
        )


@pytest.mark.parametrize("newer", [True, False])
def test_a_repository_is_asked_for_a_pickle_only_where_it_has_nothing_newer(
    clip: Path, tmp_path: Path, monkeypatch, newer: bool
) -> None:
    repository = pickled(clip, tmp_path / "repository")
    if newer:
        shutil.copy(clip / "model.safetensors", repository)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()

    def download(name: str, *, allow_patterns: list[str], **request) -> str:
        files = [path.name for path in repository.iterdir()]
        for file in huggingface_hub.utils.filter_repo_objects(files, allow_patterns=allow_patterns):
            shutil.copy(repository / file, snapshot)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    score, images = ClipScore("nobody/clip", CPU), pictures(1, 3, 40, 30)
    torch.testing.assert_close(score.scores(images, ["a"]), ClipScore(str(clip), CPU).scores(images, ["a"]))
    assert (snapshot / "pytorch_model.bin").exists() is not newer and (snapshot / "model.safetensors").exists() is newer


def test_a_model_that_cannot_be_fetched_says_what_can_be_typed(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match="nobody/nothing: it is not in the cache") as caught:
        open_extractor("dinov2:nobody/nothing", CPU)
    assert "--base" not in caught.value.hint and "name a local copy: --extractor dinov2:PATH" in caught.value.hint


def test_a_place_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is nothing at .*absent") as caught:
        open_extractor(f"dinov2:{tmp_path / 'absent'}", CPU)
    assert caught.value.hint == "name a folder or a Hub id: --extractor dinov2:PATH"
    with pytest.raises(UsageError, match="holds no model that transformers reads"):
        ClipScore(str(tmp_path), CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pictures_that_are_not_finite_do_not_pass_for_black(value: float, weights: Path) -> None:
    images = torch.zeros(2, 3, 8, 8)
    images[1, 0, 3, 3] = value
    with pytest.raises(RunError, match="not finite"):
        open_extractor("inception", CPU, weights, trust=True).features(images)


def test_pixels_of_large_pictures_are_refused_before_their_covariance_fills_the_memory() -> None:
    with pytest.raises(UsageError, match="512 x 256 has 393,216 of them"):
        open_extractor("pixels", CPU).features(torch.zeros(1, 3, 256, 512))


def test_a_network_in_the_same_folder_with_other_weights_is_another(clip: Path, dino: Path, tmp_path: Path) -> None:
    for folder, opened in (
        (clip, lambda path: ClipScore(path, CPU)),
        (dino, lambda path: open_extractor(f"dinov2:{path}", CPU)),
    ):
        copy = shutil.copytree(folder, tmp_path / folder.name)
        first = opened(str(copy)).identity
        assert first == opened(str(copy)).identity
        os.utime(copy / "model.safetensors", ns=(0, 0))
        assert opened(str(copy)).identity != first
