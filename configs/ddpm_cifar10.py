# CIFAR-10 with DDPM, T = 1000: FID 3.17 in its paper, 80.5 s for 100 images in DDGAN's Table 1.
# The NCSN++ of ddgan_cifar10.py without its latent, which has as many channels as DDPM's own U-net;
# its BigGAN blocks and FIR filters are not DDPM's. Dropout, rate, warm-up, clipping, batch, average
# and length are (Ho et al., 2020, App. B and their code), and so is the variance of sampling: the
# published FID is that of "fixedlarge". Made for 1 GPU.
_base_ = [
    "_base_/datasets/cifar10.py",
    "_base_/schedules/adam_constant.py",
    "_base_/default_runtime.py",
]
model = dict(
    type="DDPM",
    generator=dict(
        type="NCSNpp",
        image_size=32,
        base_channels=128,
        channel_multipliers=(1, 2, 2, 2),
        num_res_blocks=2,
        attention_resolutions=(16,),
        latent_dim=0,
        dropout=0.1,
        tanh=False,
    ),
    diffusion=dict(num_steps=1000, schedule="linear", beta_min=0.1, beta_max=20.0),
    sampler="ddpm",
    variance="fixedlarge",
    clip=True,
    ema_decay=0.9999,
    data_preprocessor=dict(type="ImagePreprocessor", flip=True),
)
train_dataloader = dict(batch_size=128)
train_cfg = dict(max_iters=800_000)
custom_hooks = [dict(type="SampleImages", interval=50_000, num=64)]
