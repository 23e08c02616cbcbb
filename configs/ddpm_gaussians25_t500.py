# 25 Gaussians with a diffusion model of 500 steps (paper, Fig. 6): network, batch, rate and length
# are those of DDGAN (App. C.5), but that the time enters as sines and cosines, which tell
# hundreds of steps apart. DDPM's β, larger in proportion to fewer steps. The model sees the centres
# 2 apart instead of 0.71: after 5,000 iterations at a constant rate 16 % instead of 5 % of the
# samples were of high quality.
_base_ = ["ddgan_gaussians25.py"]
model = dict(
    _delete_=True,
    type="DDPM",
    generator=dict(
        type="MLPGenerator",
        latent_dim=0,
        hidden_dim=512,
        num_layers=3,
        time_embedding_dim=64,
    ),
    diffusion=dict(num_steps=500, schedule="linear", beta_min=0.1, beta_max=20.0),
    sampler="ddpm",
    ema_decay=0.999,
    data_preprocessor=dict(type="PointPreprocessor", scale=2.8284),
)
optim_wrapper = dict(
    _delete_=True,
    constructor="PerNetworkOptimWrapperConstructor",
    # Adam's own β: a regression does not need the short memory of a GAN.
    generator=dict(optimizer=dict(type="Adam", lr=1e-4, betas=(0.9, 0.999), fused=True)),
)
param_scheduler = dict(
    _delete_=True, generator=[dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False)]
)
# Each sample takes 500 evaluations.
custom_hooks = [dict(type="SampleImages", interval=10_000, num=1_000)]
