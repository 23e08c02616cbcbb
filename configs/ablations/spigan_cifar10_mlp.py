# Not in the paper: an MLP of (h(0), t) in place of the neural ODE, as a review of it proposed.
_base_ = ["../spigan_cifar10.py"]
model = dict(
    generator=dict(
        mapping=dict(
            _delete_=True,
            type="MLPMapping",
            dim=512,
            hidden_dim=512,
            num_layers=3,
            lr_multiplier=0.01,
        )
    )
)
