# ruff: noqa: C408
# A run of seconds on 8 x 8 images, with everything that draws random numbers or keeps a state:
# flips, dropout, lazy R1, the average's warm-up, and epochs that end within a batch.
_base_ = [
    "../../configs/_base_/datasets/stackeddigits.py",
    "../../configs/_base_/schedules/adam_cosine.py",
    "../../configs/_base_/default_runtime.py",
]
model = dict(
    type="DDGAN",
    generator=dict(
        type="NCSNpp",
        image_size=8,
        base_channels=8,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(),
        latent_dim=4,
        embedding_dim=8,
        num_mapping_layers=1,
        dropout=0.1,
    ),
    discriminator=dict(
        type="TimeDependentDiscriminator",
        stem_channels=8,
        blocks=((8, False), (16, True)),
        time_embedding_dim=8,
    ),
    diffusion=dict(num_steps=4),
    r1_interval=3,
    ema_decay=0.99,
    ema_warmup=True,
    data_preprocessor=dict(type="ImagePreprocessor", flip=True),
)
train_dataloader = dict(batch_size=6, dataset=dict(num_samples=20))
train_cfg = dict(type="TrainLoop", max_iters=14)
custom_hooks = [dict(type="SampleImages", interval=7, num=4)]
default_hooks = dict(logger=dict(interval=4), checkpoint=dict(interval=5, max_keep_ckpts=-1))
