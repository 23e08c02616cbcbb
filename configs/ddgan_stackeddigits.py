_base_ = [
    "_base_/datasets/stackeddigits.py",
    "_base_/schedules/adam_cosine.py",
    "_base_/default_runtime.py",
]
model = dict(
    type="DDGAN",
    generator=dict(
        type="NCSNpp",
        image_size=8,
        base_channels=32,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(),
        latent_dim=32,
        embedding_dim=64,
        num_mapping_layers=2,
        progressive_input="none",
        fir=False,
    ),
    discriminator=dict(
        type="TimeDependentDiscriminator",
        stem_channels=32,
        blocks=((64, False), (128, True)),
        time_embedding_dim=64,
    ),
    diffusion=dict(num_steps=4, schedule="vp", beta_min=0.1, beta_max=20.0),
    r1_gamma=0.05,
    r1_interval=10,
    ema_decay=0.995,
    ema_warmup=True,
)
train_cfg = dict(type="TrainLoop", max_iters=2_000)
custom_hooks = [dict(type="SamplePictures", interval=200, num=100)]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=500))
evaluation = dict(modes=dict(type="DigitModes", num=10_000))
