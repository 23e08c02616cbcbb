# SPI-GAN for 256 x 256 images. What is not marked "paper" is this project's choice, for the
# reasons given in spigan_32.py: StyleGAN2-ADA's "paper256" configuration.
model = dict(
    type="SPIGAN",
    num_points=2,  # paper: K = 2 is its best
    sde="vp",  # paper
    beta_min=0.1,
    beta_max=20.0,
    generator=dict(
        type="SPIGANGenerator",
        mapping=dict(
            type="NeuralODEMapping",
            dim=512,
            hidden_dim=512,
            num_layers=3,
            lr_multiplier=0.01,
            solver="rk4",
            num_steps=4,
        ),
        synthesis=dict(
            type="StyleGAN2Generator",
            image_size=256,
            latent_dim=512,
            w_dim=512,
            num_mapping_layers=0,
            normalize_latent=False,
            architecture="skip",
            channel_base=16384,
            max_channels=512,
            clamp=256.0,
        ),
        # A layer from all 256 x 256 pixels would have 100 million weights.
        pool_to=32,
    ),
    discriminator=dict(
        type="StyleGAN2Discriminator",
        image_size=256,
        architecture="residual",
        channel_base=16384,
        max_channels=512,
        stddev_group=8,
        time_embedding_dim=256,
        num_time_layers=8,
        clamp=256.0,
    ),
    r1_gamma=1.0,
    r1_interval=16,
    path_length_weight=2.0,
    path_length_interval=4,
    augment=dict(type="AdaptiveAugmentation", pipeline="bgc", target=0.6, interval=4, kimg=500),
    ema_half_life=20_000,
    ema_ramp_up=None,
    data_preprocessor=dict(type="ImagePreprocessor", flip=True),
)
