"""Memory layout and recomputed activations change how a network computes, not what."""

import copy

import pytest
import torch

from ddgan.models.losses import r1_penalty
from ddgan.networks import NCSNpp, TimeDependentDiscriminator

N = 3


def networks(dropout=0.0, **options):
    torch.manual_seed(0)
    generator = NCSNpp(
        8,
        base_channels=16,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        latent_dim=3,
        embedding_dim=4,
        num_mapping_layers=1,
        dropout=dropout,
        **options,
    )
    discriminator = TimeDependentDiscriminator(
        stem_channels=8, blocks=((16, False), (16, True)), time_embedding_dim=8, **options
    )
    for parameter in (*generator.parameters(), *discriminator.parameters()):
        # In the order of the shape, whatever the layout in memory.
        values = torch.randn(parameter.shape) * parameter[0].numel() ** -0.5
        parameter.data.copy_(values)
    return generator.double(), discriminator.double()


def gradients(generator, discriminator):
    """The gradients of a loss through both networks with R1, double derivatives in it."""
    torch.manual_seed(1)
    x, y, z = (torch.randn(N, *s, dtype=torch.float64) for s in ((3, 8, 8), (3, 8, 8), (3,)))
    t = torch.arange(N)
    fake = generator(x, t, z)
    y.requires_grad_()
    logits = discriminator(y, t, x)
    loss = discriminator(fake, t, x).sum() + logits.square().sum() + r1_penalty(logits, y)
    loss.backward()
    return {
        f"{name}.{key}": parameter.grad
        for name, network in (("G", generator), ("D", discriminator))
        for key, parameter in network.named_parameters()
    }


@pytest.mark.parametrize(
    ("option", "dropout"),
    # Which values dropout takes depends on their order in memory.
    [("channels_last", 0.0), ("checkpoint_activations", 0.2)],
)
def test_gradients_are_the_same(option, dropout):
    expected = gradients(*networks(dropout))
    found = gradients(*networks(dropout, **{option: True}))
    assert expected.keys() == found.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9, msg=name)


def test_recomputing_keeps_fewer_activations():
    def kept_bytes(**options):
        generator, _ = networks(**options)
        total = 0

        def keep(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            x = torch.randn(N, 3, 8, 8, dtype=torch.float64)
            generator(x, torch.arange(N), torch.randn(N, 3, dtype=torch.float64))
        return total

    assert kept_bytes(checkpoint_activations=True) < 0.7 * kept_bytes()


def test_channels_last_holds_all_the_way_and_in_copies():
    seen = []
    for network in networks(channels_last=True):
        for module in copy.deepcopy(network).modules():
            if isinstance(module, torch.nn.Conv2d):
                assert module.weight.is_contiguous(memory_format=torch.channels_last)

    def note(module, inputs, output):
        seen.append(output.is_contiguous(memory_format=torch.channels_last))

    for network in networks(channels_last=True):
        for block in network.modules():
            if type(block).__name__ in ("ResBlock", "DownBlock", "Attention"):
                block.register_forward_hook(note)
        x = torch.randn(N, 3, 8, 8, dtype=torch.float64)
        other = torch.randn(N, 3, dtype=torch.float64) if isinstance(network, NCSNpp) else x
        network(x, torch.arange(N), other)
    assert len(seen) > 10
    assert all(seen)
