"""Solvers with fixed steps against SciPy, torchdiffeq and their orders."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchdiffeq
from scipy.integrate import solve_ivp

from ddgan.diffusion.ode import METHODS, integrate, states_at

A = torch.tensor([[-0.3, 1.2, 0.1], [-1.0, 0.2, 0.5], [0.4, -0.6, -0.1]], dtype=torch.float64)
H0 = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.4, -1.0]], dtype=torch.float64)


def pendulum(t, h):
    """A nonlinear problem that depends on time."""
    return torch.tanh(h @ A.T) + torch.sin(3 * torch.as_tensor(t, dtype=h.dtype)) * h


def exact(times):
    def flat(t, h):
        return pendulum(t, torch.from_numpy(h.reshape(2, 3))).numpy().ravel()

    solution = solve_ivp(
        flat, (0, 1), H0.numpy().ravel(), t_eval=times, rtol=1e-11, atol=1e-12, method="DOP853"
    )
    return torch.from_numpy(solution.y.T.reshape(-1, 2, 3))


def uniform(n):
    return [k / n for k in range(n + 1)]


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_orders_of_convergence(method, order):
    end = exact([1.0])[0]
    errors = [
        (integrate(pendulum, H0, uniform(n), method)[-1] - end).abs().max().item()
        for n in (8, 16, 32)
    ]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)
    assert errors[-1] < {1: 3e-2, 2: 1e-3, 4: 1e-6}[order]


@pytest.mark.parametrize(("method", "name"), [("euler", "euler"), ("midpoint", "midpoint")])
def test_states_are_those_of_torchdiffeq(method, name):
    grid = [0.0, 0.1, 0.35, 0.6, 1.0]
    expected = torchdiffeq.odeint(pendulum, H0, torch.tensor(grid, dtype=H0.dtype), method=name)
    torch.testing.assert_close(torch.stack(integrate(pendulum, H0, grid, method)), expected)


def test_rk4_agrees_with_torchdiffeq_to_its_accuracy():
    """torchdiffeq's rk4 is the 3/8 rule: another method of order 4."""
    grid = uniform(16)
    expected = torchdiffeq.odeint(
        pendulum, H0, torch.tensor(grid, dtype=H0.dtype), rtol=1e-10, atol=1e-12, method="dopri5"
    )
    actual = torch.stack(integrate(pendulum, H0, grid, "rk4"))
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)
    other = torchdiffeq.odeint(pendulum, H0, torch.tensor(grid, dtype=H0.dtype), method="rk4")
    torch.testing.assert_close(actual, other, rtol=0, atol=2e-5)


def test_rk4_written_out():
    def f(t, h):
        return -2 * t * h

    h = torch.tensor([[1.5]], dtype=torch.float64)
    k1 = 0.0
    k2 = -2 * 0.25 * 1.5
    k3 = -2 * 0.25 * (1.5 + 0.25 * k2)
    k4 = -2 * 0.5 * (1.5 + 0.5 * k3)
    expected = 1.5 + 0.5 / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    assert integrate(f, h, [0.0, 0.5], "rk4")[1].item() == pytest.approx(expected, rel=1e-14)
    assert expected == pytest.approx(1.5 * math.exp(-0.25), rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_states_between_the_points_of_the_grid(method):
    grid = uniform(20)
    times = torch.tensor([0.93, 0.001, 0.5, 0.5, 1.0, 0.0, 0.26], dtype=torch.float64)
    states = integrate(pendulum, H0, grid, method)
    between = states_at(pendulum, torch.tensor(grid).double(), states, times, method)
    order = np.argsort(times.numpy(), kind="stable")
    expected = torch.empty_like(between)
    unique, position = np.unique(times.numpy()[order], return_inverse=True)
    expected[order] = exact(unique)[position]
    tolerance = {"euler": 6e-2, "midpoint": 2e-3, "rk4": 1e-5}[method]
    torch.testing.assert_close(between, expected, rtol=0, atol=tolerance)
    # At points of the grid it is the state itself, bit for bit.
    assert torch.equal(between[4], states[-1])
    assert torch.equal(between[5], H0)


def test_a_state_does_not_depend_on_the_other_times():
    grid = uniform(4)
    states = integrate(pendulum, H0, grid)
    points = torch.tensor(grid).double()
    alone = states_at(pendulum, points, states, torch.tensor([0.4], dtype=torch.float64))
    times = torch.tensor([0.1, 0.4, 0.41], dtype=torch.float64)
    together = states_at(pendulum, points, states, times)
    torch.testing.assert_close(alone[0], together[1], rtol=1e-12, atol=1e-12)


def test_gradients_pass_twice():
    h0 = H0[:1].clone().requires_grad_(True)

    def end(h):
        states = integrate(pendulum, h, uniform(2))
        return states_at(
            pendulum, torch.tensor(uniform(2)).double(), states, torch.tensor([0.7]).double()
        )

    assert torch.autograd.gradcheck(end, h0)
    assert torch.autograd.gradgradcheck(end, h0)
