# StackedDigits: three of scikit-learn's 8 x 8 digits as red, green and blue, 1000 modes. Small
# enough to learn on two CPU cores in minutes. Images this small need no convolutions: fully
# connected networks cost a tenth per sample, which buys the large batches and many iterations that
# mode coverage takes.
_base_ = [
    "_base_/datasets/stackeddigits.py",
    "_base_/schedules/adam_cosine.py",
    "_base_/default_runtime.py",
]
model = dict(
    type="DDGAN",
    generator=dict(type="MLPGenerator", data_shape=(3, 8, 8), latent_dim=32, tanh=True),
    discriminator=dict(
        type="MLPDiscriminator", data_shape=(3, 8, 8), num_layers=4, stddev_group=128
    ),
    diffusion=dict(num_steps=4, schedule="vp", beta_min=0.1, beta_max=20.0),
    r1_gamma=0.5,
    r1_interval=4,
    ema_decay=0.999,
    ema_warmup=True,
)
train_cfg = dict(max_iters=7_000)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=1e-3, betas=(0.5, 0.99))),
    discriminator=dict(optimizer=dict(lr=1e-3, betas=(0.5, 0.99))),
)
default_hooks = dict(checkpoint=dict(interval=1_000))
custom_hooks = [dict(type="SampleImages", interval=1_000, num=100)]
