"""o, r and the mappings."""

import math
import sys

import pytest
import torch
import torch._dynamo.testing
from scipy.integrate import solve_ivp
from torch.utils._python_dispatch import TorchDispatchMode

from ddgan.errors import ConfigError
from ddgan.networks import MLPMapping, MLPPathDiscriminator, NeuralODEMapping
from ddgan.networks.node_mapping import NoiseEmbedding, TimedMLP


def mapping(solver="rk4", **arguments):
    torch.manual_seed(0)
    arguments = {"dim": 6, "hidden_dim": 8, "num_layers": 2, "lr_multiplier": 1.0, **arguments}
    return NeuralODEMapping(solver=solver, **arguments).eval()


def normals(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("solver", "num_steps", "tolerance"),
    [("euler", 400, 1e-2), ("midpoint", 40, 1e-3), ("rk4", 8, 1e-4), ("dopri5", 1, 1e-4)],
)
def test_the_initial_value_problem_is_solved(solver, num_steps, tolerance):
    network = mapping(solver, num_steps=num_steps)
    h0, times = normals(3, 6), torch.tensor([0.21, 0.87])
    reference = mapping().double()
    reference.r.load_state_dict(network.r.state_dict())

    def flat(t, h):
        with torch.no_grad():
            return reference.r(t, torch.from_numpy(h.reshape(3, 6))).numpy().ravel()

    solution = solve_ivp(
        flat, (0, 1), h0.double().numpy().ravel(), t_eval=[0.21, 0.87, 1.0], rtol=1e-9, atol=1e-10
    )
    expected = torch.from_numpy(solution.y.T.reshape(3, 3, 6)).float()
    torch.testing.assert_close(network(h0, times), expected, rtol=0, atol=tolerance)
    assert (expected[-1] - h0).abs().mean() > 0.2, "the problem is not trivial"


@pytest.mark.parametrize("solver", ["euler", "midpoint", "rk4"])
def test_training_and_sampling_see_the_same_latents(solver):
    """The trap: h(1) must not depend on the times that a training batch has drawn."""
    network = mapping(solver, num_steps=3)
    h0 = normals(4, 6)
    alone = network(h0)
    assert alone.shape == (1, 4, 6)
    assert torch.equal(network(h0, torch.empty(0)), alone)
    for times in ([0.5], [0.02, 0.03, 0.999], [0.3, 0.3], [1 / 3, 0.0, 1.0]):
        latents = network(h0, torch.tensor(times))
        assert latents.shape == (len(times) + 1, 4, 6)
        assert torch.equal(latents[-1], alone[-1])
    assert torch.equal(latents[1], h0)
    assert torch.equal(latents[2], alone[-1])


def test_adaptive_solver_takes_equal_and_unsorted_times():
    network = mapping("dopri5", rtol=1e-6, atol=1e-6)
    h0 = normals(2, 6)
    latents = network(h0, torch.tensor([0.7, 0.0, 0.7, 1.0]))
    assert torch.equal(latents[0], latents[2])
    assert torch.equal(latents[1], h0)
    assert torch.equal(latents[3], latents[4])
    accurate = mapping(num_steps=32)(h0, torch.tensor([0.7]))
    torch.testing.assert_close(latents[[0, 4]], accurate, rtol=0, atol=1e-5)


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_a_latent_does_not_depend_on_its_batch(solver):
    network = mapping(solver, rtol=1e-3, atol=1e-3)
    h0 = normals(5, 6) * torch.tensor([1.0, 1.0, 30.0, 1.0, 1.0])[:, None]
    together = network(h0, torch.tensor([0.4]))
    torch.testing.assert_close(network(h0[:2], torch.tensor([0.4])), together[:, :2])


def test_a_missing_torchdiffeq_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ConfigError, match="pip install torchdiffeq, or choose one of"):
        mapping("dopri5")
    assert mapping("euler")(normals(1, 6)).shape == (1, 1, 6)


def test_fixed_steps_compile_to_one_graph():
    network = mapping()
    # Other times are other data, not another graph.
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    for times in ([0.3, 0.4], [0.1, 0.9], [0.0, 1.0]):
        compiled(normals(2, 6), torch.tensor(times))
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_r_is_smooth_and_depends_on_time():
    r = TimedMLP(64, 64, 3, lr_multiplier=0.01)
    h = normals(500, 64)
    early, late = r(0.1, h), r(0.9, h)
    assert early.std().item() == pytest.approx(1, rel=0.35)
    # Time weighs about as much as h; one column among 64 would change the output by 0.1.
    assert (late - early).square().mean().sqrt() > 0.4
    torch.testing.assert_close(r(torch.tensor(0.1), h), early)
    torch.testing.assert_close(r(torch.full((500, 1), 0.1), h), early)
    # Second differences fall with the square of the step; at a kink they would fall with the step.
    r = r.double()
    bend = [
        r(0.5, h.double() * (1 + step)) - 2 * r(0.5, h.double()) + r(0.5, h.double() * (1 - step))
        for step in (0.02, 0.01)
    ]
    assert (bend[0].norm() / bend[1].norm()).item() == pytest.approx(4, rel=0.02)


def r_by_the_layers(r, t, h):
    """Each layer sees h and √dim t, side by side."""

    def with_time(h):
        return torch.cat([h, torch.full_like(h[:, :1], t) * math.sqrt(h.shape[1])], dim=1)

    for layer in r.hidden:
        h = torch.nn.functional.silu(layer(with_time(h))) * 1.6766
    return r.out(with_time(h))


@pytest.mark.parametrize("num_layers", [1, 3])
def test_time_in_the_biases_is_time_as_a_further_input(num_layers):
    torch.manual_seed(0)
    r = TimedMLP(6, 9, num_layers, lr_multiplier=0.01).double()
    for p in r.parameters():
        torch.nn.init.normal_(p, std=100)
    h = normals(4, 6).double()
    for t in (0.0, 0.3, 1.0):
        expected = r_by_the_layers(r, t, h)
        torch.testing.assert_close(r(t, h), expected, rtol=1e-6, atol=1e-6)
        times = torch.tensor([0.9, t]).double()[:, None, None]
        torch.testing.assert_close(r(times, h.expand(2, 4, 6))[1], expected, rtol=1e-6, atol=1e-6)


class CountOperations(TorchDispatchMode):
    """Counts operations that launch a kernel."""

    VIEWS = ("split", "slice", "select", "unsqueeze", ".t.", "transpose", "view", "expand")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not any(view in str(function) for view in self.VIEWS)
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_four_steps_launch_few_kernels():
    # Per call of r: the biases, three layers and two SiLU; StyleGAN2's synthesis launches 150.
    network, h0 = NeuralODEMapping(16, 16).eval(), normals(2, 16)
    with CountOperations() as counter:
        network(h0)
    assert counter.count <= 16 * 6 + 4 * 7 + 10


@pytest.mark.parametrize(
    ("shape", "inputs"),
    [((3, 8, 8), 192), ((3, 32, 32), 3072), ((3, 256, 256), 3072), ((1, 50, 33), 25 * 16)],
)
def test_embedding_of_any_resolution(shape, inputs):
    o = NoiseEmbedding(shape, dim=16)
    assert o.linear.weight.shape == (16, inputs)
    h0 = o(normals(64, *shape))
    assert h0.shape == (64, 16)
    # White noise of variance 1 stays of variance 1.
    assert h0.std().item() == pytest.approx(1, rel=0.12)


def test_embedding_sees_every_pixel():
    o = NoiseEmbedding((1, 8, 8), dim=4, pool_to=4)
    x = normals(1, 1, 8, 8).requires_grad_(True)
    o(x).sum().backward()
    assert (x.grad != 0).all()
    manual = o.linear(2 * x.reshape(1, 1, 4, 2, 4, 2).mean((3, 5)).flatten(1))
    torch.testing.assert_close(o(x), manual)


def test_mlp_mapping_is_one_network_of_h0_and_t():
    network = MLPMapping(dim=6, hidden_dim=8, num_layers=2, lr_multiplier=1.0)
    h0 = normals(4, 6)
    latents = network(h0, torch.tensor([0.2, 0.7]))
    for latent, t in zip(latents, (0.2, 0.7, 1.0), strict=True):
        torch.testing.assert_close(latent, network.mlp(t, h0))
    torch.testing.assert_close(network(h0), latents[-1:])


def test_discriminator_of_small_images():
    network = MLPPathDiscriminator((3, 4, 4), hidden_dim=16, num_layers=3, stddev_group=8)
    x = normals(8, 3, 4, 4)
    early, late = network(x, torch.full((8,), 0.2)), network(x, torch.ones(8))
    assert early.shape == (8, 1)
    assert not torch.allclose(early, late)
    # The deviation over the group makes a logit depend on the others.
    assert not torch.allclose(network(x[:4], torch.ones(4)), late[:4])
    with pytest.raises(ValueError, match=r"x has shape \(8, 3, 4, 4\) and t \(1,\); expected"):
        network(x, torch.ones(1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mapping("rk5"), "solver is 'rk5'; expected one of"),
        (lambda: mapping(num_steps=0), "num_steps is 0"),
        (lambda: mapping(rtol=0.0), "rtol 0.0"),
        (lambda: mapping(num_layers=0), "num_layers 0"),
        (lambda: NoiseEmbedding((3, 8, 8), 4, pool_to=0), "pool_to is 0"),
        (lambda: MLPPathDiscriminator((3, 8, 8), num_layers=1), "num_layers is 1"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
