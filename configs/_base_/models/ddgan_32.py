# The networks of the official release for 32 x 32 images.
model = dict(
    type="DDGAN",
    generator=dict(
        type="NCSNpp",
        image_size=32,
        base_channels=128,
        channel_multipliers=(1, 2, 2, 2),
        num_res_blocks=2,
        attention_resolutions=(16,),
        latent_dim=100,
        embedding_dim=256,
        num_mapping_layers=4,
    ),
    discriminator=dict(
        type="TimeDependentDiscriminator",
        stem_channels=128,
        blocks=((128, False), (256, True), (512, True), (512, True)),
    ),
    # time_epsilon: the release squeezes the time of the paper's Eq. 16 to [1e-3, 1].
    diffusion=dict(num_steps=4, schedule="vp", beta_min=0.1, beta_max=20.0, time_epsilon=1e-3),
    r1_gamma=0.02,
    r1_interval=15,
    ema_decay=0.9999,
    data_preprocessor=dict(type="ImagePreprocessor", flip=True),
)
