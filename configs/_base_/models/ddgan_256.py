# The networks of the official release for 256 x 256 images.
_base_ = ["ddgan_32.py"]
model = dict(
    generator=dict(
        image_size=256,
        base_channels=64,
        channel_multipliers=(1, 1, 2, 2, 4, 4),
        num_mapping_layers=3,
    ),
    discriminator=dict(
        blocks=((256, True), (512, True), (512, True), (512, True), (512, True), (512, True)),
        head_conv_scale=1.0,
    ),
    r1_gamma=1.0,
    r1_interval=10,
    ema_decay=0.999,
)
