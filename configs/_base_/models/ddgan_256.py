# The networks of the official release for 256 x 256 images.
model = dict(
    type="DDGAN",
    generator=dict(
        type="NCSNpp",
        image_size=256,
        base_channels=64,
        channel_multipliers=(1, 1, 2, 2, 4, 4),
        num_res_blocks=2,
        attention_resolutions=(16,),
        latent_dim=100,
        embedding_dim=256,
        num_mapping_layers=3,
    ),
    discriminator=dict(
        type="TimeDependentDiscriminator",
        stem_channels=128,
        blocks=((256, True), (512, True), (512, True), (512, True), (512, True), (512, True)),
        head_conv_scale=1.0,
    ),
    diffusion=dict(num_steps=4, schedule="vp", beta_min=0.1, beta_max=20.0, time_epsilon=1e-3),
    r1_gamma=1.0,
    r1_interval=10,
    ema_decay=0.999,
    data_preprocessor=dict(type="ImagePreprocessor", flip=True),
)
