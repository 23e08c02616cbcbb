# StackedDigits with SPI-GAN: small enough to learn on two CPU cores in minutes. All numbers but K
# are this project's choices; the paper has no experiment of this size. As for DDGAN, large batches
# at a high learning rate cover the modes.
_base_ = [
    "_base_/datasets/stackeddigits.py",
    "_base_/schedules/spigan_adam.py",
    "_base_/default_runtime.py",
]
model = dict(
    type="SPIGAN",
    num_points=2,
    generator=dict(
        type="SPIGANGenerator",
        # A larger multiplier than StyleGAN2's 0.01: a run of minutes cannot wait for the mapping.
        # Four evaluations of r take less than a tenth of the small synthesis network's time.
        mapping=dict(
            type="NeuralODEMapping",
            dim=64,
            hidden_dim=128,
            num_layers=2,
            lr_multiplier=0.1,
            solver="midpoint",
            num_steps=2,
        ),
        synthesis=dict(
            type="StyleGAN2Generator",
            image_size=8,
            latent_dim=64,
            w_dim=64,
            num_mapping_layers=0,
            normalize_latent=False,
            channel_base=384,
            max_channels=64,
        ),
    ),
    # The discriminator that learned in ddgan_stackeddigits.py: at 8 x 8 it costs a tenth of
    # StyleGAN2's, and the deviation over the whole batch keeps the modes apart.
    discriminator=dict(
        type="MLPPathDiscriminator", data_shape=(3, 8, 8), num_layers=4, stddev_group=128
    ),
    # 0.2 x 4 is near to what ddgan_stackeddigits.py adds every fourth iteration.
    r1_gamma=0.2,
    r1_interval=4,
    # 156 iterations: long against the noise of single steps, short against the run.
    ema_half_life=20_000,
    ema_ramp_up=0.05,
)
train_cfg = dict(max_iters=2_000)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=2e-3, betas=(0.5, 0.99))),
    discriminator=dict(optimizer=dict(lr=1e-3, betas=(0.5, 0.99))),
)
default_hooks = dict(checkpoint=dict(interval=1_000))
custom_hooks = [dict(type="SampleImages", interval=500, num=100)]
