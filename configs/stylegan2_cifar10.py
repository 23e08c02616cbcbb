# CIFAR-10 with StyleGAN2-ADA, which is SPI-GAN without its path and ODE: FID 2.92 in Table 2 of
# SPI-GAN. Networks, augmentation, optimizer, batch and length are those of spigan_cifar10.py, which
# took them from here; a mapping network of two layers maps z to the styles. Made for 2 GPUs.
_base_ = [
    "_base_/datasets/cifar10.py",
    "_base_/schedules/spigan_adam.py",
    "_base_/default_runtime.py",
]
model = dict(
    type="StyleGAN2",
    generator=dict(
        type="StyleGAN2Generator",
        image_size=32,
        latent_dim=512,
        w_dim=512,
        num_mapping_layers=2,
        architecture="skip",
        channel_base=32768,
        max_channels=512,
        clamp=256.0,  # for --amp
    ),
    discriminator=dict(
        type="StyleGAN2Discriminator",
        image_size=32,
        architecture="orig",
        channel_base=32768,
        max_channels=512,
        stddev_group=32,
        clamp=256.0,
    ),
    r1_gamma=0.01,
    r1_interval=16,
    path_length_weight=0.0,
    mixing_probability=0.0,
    augment=dict(type="AdaptiveAugmentation", pipeline="bgc", target=0.6, interval=4, kimg=500),
    ema_half_life=500_000,
    ema_ramp_up=0.05,
    data_preprocessor=dict(type="ImagePreprocessor", flip=False),  # ADA flips, where it helps
)
train_dataloader = dict(batch_size=32)
train_cfg = dict(type="TrainLoop", max_iters=1_562_500)
