# ruff: noqa: C408
# A run of seconds on points, where samples of a batch do not depend on each other.
_base_ = ["../../configs/ddgan_gaussians25.py"]
model = dict(
    generator=dict(hidden_dim=16, num_layers=2),
    discriminator=dict(hidden_dim=16, num_layers=2),
    r1_gamma=0.05,
    ema_decay=0.5,
)
train_dataloader = dict(batch_size=8, dataset=dict(num_samples=50))
train_cfg = dict(max_iters=6)
custom_hooks = [dict(type="SampleImages", interval=1_000, num=4)]
default_hooks = dict(logger=dict(interval=2), checkpoint=dict(interval=3))
