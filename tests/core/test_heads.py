"""Heads on a model whose forward() knows nothing of them."""

import copy
import math

import pytest
import torch
from helpers import seeded
from torch import Tensor, nn

from piflow_cli.core.decoding import PolicyDecoder
from piflow_cli.core.heads import HeadSite, HeadSizes, attach_head
from piflow_cli.core.policies.components import BIAS_NOISE
from piflow_cli.core.policies.dx import DXHead, DXPolynomialHead
from piflow_cli.core.policies.gmflow import GMHead
from piflow_cli.core.policies.kinds import policy_kinds
from piflow_cli.core.policies.momentum import MomentumHead

BATCH, TOKENS, WIDTH, PATCH, CHANNELS, COMPONENTS = 2, 6, 5, 4, 3, 3


class Packed(nn.Module):
    """FLUX-like: emits tokens of (c, position)."""

    site = HeadSite("proj_out", PATCH, True, "norm_out", "input", 1)

    def __init__(self) -> None:
        super().__init__()
        self.norm_out = Modulation()
        self.proj_out = nn.Linear(WIDTH, CHANNELS * PATCH)

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        return self.proj_out(self.norm_out(tokens, embedding))


class Modulation(nn.Module):
    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        return tokens * (1 + embedding.unsqueeze(1))


class Unpatchifying(nn.Module):
    """DiT-like: tokens of (position, c) become an image of ``out_channels`` channels inside forward()."""

    site = HeadSite("last.proj", PATCH, False, "embed", "output", unpatchify=True)

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = CHANNELS
        self.embed = nn.Identity()
        self.last = nn.ModuleDict({"proj": nn.Linear(WIDTH, PATCH * CHANNELS, bias=True)})

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.last["proj"](tokens * (1 + self.embed(embedding).unsqueeze(1)))
        return hidden.unflatten(-1, (PATCH, self.out_channels)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "seen",
    [
        lambda embedding: embedding[:, None],
        lambda embedding: embedding[:, None].expand(-1, TOKENS, -1),
        lambda embedding: torch.stack([torch.zeros_like(embedding), embedding], dim=1),
        lambda embedding: torch.cat([embedding, torch.ones(1, WIDTH)]),
        lambda embedding: torch.cat([embedding, torch.ones(1, WIDTH)])[:, None],
    ],
    ids=["one token", "every token", "a clean frame first", "a row more", "a row more, one token"],
)
def test_the_log_std_follows_the_embedding_of_its_samples_however_the_network_carries_it(seen):
    tokens, embedding = inputs()
    head = GMHead(nn.Linear(WIDTH, CHANNELS * PATCH), COMPONENTS, PATCH, True, WIDTH, 7, generator=seeded())
    nn.init.normal_(head.logstds[3].weight, generator=seeded(5))
    found = []
    for carried in (embedding, seen(embedding)):
        head.embedding = carried
        found.append(head(tokens))
    assert torch.equal(*found)
    assert not torch.equal(found[0][0, :, -1], found[0][1, :, -1])


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(BATCH, TOKENS, WIDTH, generator=seeded()), torch.randn(BATCH, WIDTH, generator=seeded(1))


def sample(model: nn.Module) -> Tensor:
    shape = (BATCH, TOKENS, CHANNELS * PATCH) if isinstance(model, Packed) else (BATCH, CHANNELS, TOKENS, PATCH)
    return torch.randn(*shape, generator=seeded(2))


def widened(model: nn.Module, kind: str, bias_noise: float = 0.0) -> tuple[nn.Module, PolicyDecoder]:
    model, site = copy.deepcopy(model), model.site
    projection = model.get_submodule(site.projection)
    if kind == "gm":
        head = GMHead(
            projection, COMPONENTS, PATCH, site.channel_major, WIDTH, 7, bias_noise=bias_noise, generator=seeded()
        )
    elif kind == "momentum":
        head = MomentumHead(
            projection, COMPONENTS, PATCH, site.channel_major, bias_noise=bias_noise, generator=seeded()
        )
    else:
        head = (DXPolynomialHead if kind == "dx-poly" else DXHead)(projection, COMPONENTS, PATCH, site.channel_major)
    attach_head(model, site, head)
    return model, PolicyDecoder(kind, COMPONENTS, patch=PATCH if isinstance(model, Packed) else None)


@pytest.mark.parametrize("make", [Packed, Unpatchifying])
@pytest.mark.parametrize("kind", ["gm", "dx", "dx-poly", "momentum"])
def test_at_initialisation_the_policy_starts_with_the_teachers_velocity(make, kind: str) -> None:
    torch.manual_seed(0)
    teacher = make()
    student, decoder = widened(teacher, kind)
    x = sample(teacher)
    raw = torch.full((BATCH,), 0.7, dtype=torch.float64)
    policy = decoder.policy(student(*inputs()), x, raw)
    velocity = decoder.pack(policy.velocity(policy.x_src, raw))
    torch.testing.assert_close(velocity, teacher(*inputs()))


@pytest.mark.parametrize("make", [Packed, Unpatchifying])
def test_every_component_is_the_teacher_with_one_offset_per_component_and_channel(make) -> None:
    torch.manual_seed(0)
    teacher = make()
    student, decoder = widened(teacher, "gm", bias_noise=BIAS_NOISE)
    policy = decoder.policy(student(*inputs()), sample(teacher), torch.ones(BATCH, dtype=torch.float64))
    offset = policy.means - decoder.unpack(teacher(*inputs())).unsqueeze(1)
    expected = BIAS_NOISE * torch.randn(COMPONENTS, CHANNELS, generator=seeded())
    torch.testing.assert_close(offset, expected.reshape(1, COMPONENTS, CHANNELS, 1, 1).expand_as(offset))
    torch.testing.assert_close(policy.mixture.logweights.exp(), torch.full_like(policy.logweights, 1 / COMPONENTS))
    torch.testing.assert_close(policy.logstds, torch.full((BATCH,), math.log(0.05)))


@pytest.mark.parametrize(("bias", "noise"), [(True, 0.05), (False, 0.1)])
def test_the_noise_on_the_bias_is_a_tenth_where_the_projection_has_none(bias: bool, noise: float) -> None:
    """The published classes: 0.05 on the bias of FLUX.1, Qwen-Image and DiT, 0.1 in the place of that of FLUX.2."""
    projection = nn.Linear(WIDTH, CHANNELS * PATCH, bias=bias)
    for head in (
        GMHead(projection, COMPONENTS, PATCH, True, WIDTH, 7, generator=seeded()),
        MomentumHead(projection, COMPONENTS, PATCH, True, generator=seeded()),
    ):
        offset = head.means.bias.unflatten(0, (COMPONENTS, CHANNELS, PATCH))
        if bias:
            offset = offset - projection.bias.unflatten(0, (CHANNELS, PATCH))
        expected = noise * torch.randn(COMPONENTS, CHANNELS, generator=seeded())
        torch.testing.assert_close(offset, expected.unsqueeze(-1).expand_as(offset), rtol=0, atol=1e-6)


def test_the_hidden_layer_of_the_log_std_is_xavier_uniform() -> None:
    """Glorot and Bengio 2010: even between -a and a, a = sqrt(6 / (fan in +
    fan out)), which has the variance a^2 / 3."""
    inside, outside = 512, 1024
    layer = GMHead(
        nn.Linear(WIDTH, CHANNELS * PATCH), COMPONENTS, PATCH, True, inside, outside, generator=seeded()
    ).logstds[1]
    bound = math.sqrt(6 / (inside + outside))
    assert layer.weight.shape == (outside, inside) and not layer.bias.any()
    assert 0.999 * bound < layer.weight.abs().max() <= bound
    assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.01)


@pytest.mark.parametrize("make", [Packed, Unpatchifying])
def test_of_a_polynomial_the_constant_term_alone_starts_as_the_teacher(make) -> None:
    teacher = make()
    student, decoder = widened(teacher, "dx-poly")
    terms = decoder.policy(student(*inputs()), sample(teacher), torch.ones(BATCH, dtype=torch.float64)).grid
    torch.testing.assert_close(decoder.pack(terms[:, 0]), teacher(*inputs()))
    assert not terms[:, 1:].any()


@pytest.mark.parametrize("make", [Packed, Unpatchifying])
def test_rates_start_between_a_fifth_and_four_at_every_position(make) -> None:
    """method.md: K - 1 points spread in the logarithm from 0.2 to 4; with K = 3 the two ends."""
    model, decoder = widened(make(), "momentum")
    policy = decoder.policy(model(*inputs()), sample(model), torch.ones(BATCH, dtype=torch.float64))
    expected = torch.tensor([0.2, 4.0]).reshape(1, 2, 1, 1, 1).expand_as(policy.loggammas)
    torch.testing.assert_close(policy.loggammas.exp(), expected)


def test_the_log_std_reads_the_embedding_without_pulling_on_it() -> None:
    model, decoder = widened(Packed(), "gm")
    tokens, embedding = inputs()
    embedding.requires_grad_()
    nn.init.ones_(model.proj_out.logstds[3].weight)
    policy = decoder.policy(model(tokens, embedding), sample(model), torch.ones(BATCH, dtype=torch.float64))
    assert policy.logstds[0] != policy.logstds[1]
    policy.logstds.sum().backward()
    assert embedding.grad is None or not embedding.grad.any()
    assert model.proj_out.logstds[1].weight.grad.any()


@pytest.mark.parametrize("kind", ["gm", "dx", "momentum"])
def test_all_parameters_of_a_head_learn(kind: str) -> None:
    model, decoder = widened(Unpatchifying(), kind, bias_noise=BIAS_NOISE)
    raw = torch.ones(BATCH, dtype=torch.float64)
    policy = decoder.policy(model(*inputs()), sample(model), raw)
    policy.velocity(policy.x_src + 0.3, raw * 0.5).square().sum().backward()
    still = [
        name
        for name, parameter in model.last["proj"].named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    # The last weight of the log-std starts at zero, which hides the layers before it from the first gradient.
    assert still == (["logstds.1.weight", "logstds.1.bias"] if kind == "gm" else [])


def test_a_copied_model_taps_its_own_embedding() -> None:
    model, _ = widened(Packed(), "gm")
    twin = copy.deepcopy(model)
    tokens, embedding = inputs()
    nn.init.ones_(twin.proj_out.logstds[3].weight)
    assert not torch.equal(twin(tokens, embedding), model(tokens, embedding))
    assert model.proj_out.embedding is None and twin.proj_out.embedding is None


def test_a_head_without_its_tap_says_so() -> None:
    model, _ = widened(Packed(), "dx")
    with pytest.raises(RuntimeError, match="tap"):
        model.proj_out(inputs()[0])


@pytest.mark.parametrize("tap_at", ["keyword", "output", "input"])
def test_taps_find_the_embedding_wherever_it_passes(tap_at: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = Twice()
            self.proj = nn.Linear(WIDTH, PATCH)

        def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
            return self.proj(tokens + 0 * self.embed(embedding, c=embedding)[1].unsqueeze(1))

    class Twice(nn.Module):
        def forward(self, embedding: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            return 2 * embedding, embedding

    model, seen = Model(), []
    head = DXHead(model.proj, 1, PATCH, True)
    head.take_embedding = lambda: seen.append(head.embedding)
    attach_head(
        model, HeadSite("proj", PATCH, True, "embed", tap_at, {"keyword": "c", "output": 1, "input": 0}[tap_at]), head
    )
    tokens, embedding = inputs()
    model(tokens, embedding)
    torch.testing.assert_close(seen[0], embedding)


def test_packing_is_a_bijection() -> None:
    decoder = PolicyDecoder("gm", COMPONENTS, patch=PATCH)
    tokens = torch.randn(BATCH, TOKENS, CHANNELS * PATCH)
    unpacked = decoder.unpack(tokens)
    assert unpacked.shape == (BATCH, CHANNELS, TOKENS, PATCH)
    torch.testing.assert_close(unpacked[1, 2, 3, 1], tokens[1, 3, 2 * PATCH + 1], rtol=0, atol=0)
    torch.testing.assert_close(decoder.pack(unpacked), tokens, rtol=0, atol=0)


@pytest.mark.parametrize("kind", policy_kinds(), ids=lambda kind: kind.name)
def test_a_head_names_its_layers(kind) -> None:
    """Exports keep what is so called in full precision."""
    site = HeadSite("proj", PATCH, True, "embed", "output")
    head = kind.head.build(nn.Linear(WIDTH, CHANNELS * PATCH), site, HeadSizes(COMPONENTS, WIDTH, 7))
    assert tuple(name for name, _ in head.named_children()) == kind.head.layers
    assert set(kind.head.slow) <= set(kind.head.layers)
