# SPI-GAN for 256 x 256 images: StyleGAN2-ADA's "paper256" configuration in place of the one for
# CIFAR-10, this project's choice for the reasons given in spigan_32.py.
_base_ = ["spigan_32.py"]
model = dict(
    # pool_to stays 32: a layer from all 256 x 256 pixels would have 100 million weights.
    generator=dict(synthesis=dict(image_size=256, channel_base=16384)),
    discriminator=dict(image_size=256, architecture="residual", channel_base=16384, stddev_group=8),
    r1_gamma=1.0,
    path_length_weight=2.0,
    path_length_interval=4,
    ema_half_life=20_000,
    ema_ramp_up=None,
    data_preprocessor=dict(flip=True),
)
