# 3,391 emoji at 64 x 64 pixels: real RGB images that can be had without registration. The
# networks are small enough to try on a processor.
_base_ = [
    "_base_/models/ddgan_32.py",
    "_base_/datasets/emoji64.py",
    "_base_/schedules/adam_cosine.py",
    "_base_/default_runtime.py",
]
model = dict(
    generator=dict(
        image_size=64,
        base_channels=16,
        channel_multipliers=(1, 2, 2, 2),
        num_res_blocks=1,
        attention_resolutions=(),
        embedding_dim=128,
    ),
    discriminator=dict(stem_channels=16, blocks=((16, True), (32, True), (64, True), (128, True))),
    ema_decay=0.999,
    ema_warmup=True,
)
train_cfg = dict(max_iters=100_000)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=2e-4)), discriminator=dict(optimizer=dict(lr=2e-4))
)
# Features of a network that a package ships: no download is needed. Distances of other extractors
# have other scales.
evaluation = dict(
    fd_lite0=dict(
        type="FrechetDistance",
        extractor=dict(type="EfficientNetLite0Extractor", image_size=64),
        num=1_000,
        label="fd_lite0",
    )
)
