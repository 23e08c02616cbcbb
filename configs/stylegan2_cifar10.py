# CIFAR-10 with StyleGAN2-ADA, which is SPI-GAN without its path and ODE: FID 2.92 in Table 2 of
# SPI-GAN. All but the generator's inputs is as in spigan_cifar10.py; a mapping network of two
# layers maps z to the styles. Made for 2 GPUs.
_base_ = [
    "_base_/models/stylegan2_32.py",
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
        clamp=256.0,
    ),
    mixing_probability=0.0,
)
train_dataloader = dict(batch_size=32)
train_cfg = dict(max_iters=1_562_500)
