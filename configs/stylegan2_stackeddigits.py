# StackedDigits with a plain StyleGAN2: spigan_stackeddigits.py without its path and ODE.
_base_ = ["spigan_stackeddigits.py"]
model = dict(
    _delete_=True,
    type="StyleGAN2",
    generator=dict(
        type="StyleGAN2Generator",
        image_size=8,
        latent_dim=64,
        w_dim=64,
        num_mapping_layers=2,
        mapping_lr_multiplier=0.1,
        channel_base=384,
        max_channels=64,
    ),
    discriminator=dict(
        type="MLPUnconditionalDiscriminator",
        data_shape=(3, 8, 8),
        num_layers=4,
        stddev_group=128,
    ),
    r1_gamma=0.2,
    r1_interval=4,
    ema_half_life=20_000,
    ema_ramp_up=0.05,
)
