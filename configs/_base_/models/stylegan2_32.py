# StyleGAN2-ADA's configuration for CIFAR-10, without a generator: what a StyleGAN2 and SPI-GAN have
# in common at 32 x 32.
model = dict(
    discriminator=dict(
        type="StyleGAN2Discriminator",
        image_size=32,
        architecture="orig",
        channel_base=32768,
        max_channels=512,
        stddev_group=32,
        clamp=256.0,  # for --amp
    ),
    r1_gamma=0.01,
    r1_interval=16,
    path_length_weight=0.0,
    augment=dict(type="AdaptiveAugmentation", pipeline="bgc", target=0.6, interval=4, kimg=500),
    ema_half_life=500_000,
    ema_ramp_up=0.05,
    data_preprocessor=dict(type="ImagePreprocessor", flip=False),  # ADA flips, where it helps
)
