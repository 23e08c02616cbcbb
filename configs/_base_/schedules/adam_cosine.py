# Adam and cosine decay of both networks (paper, Table 8 and App. C.2). The length of the decay is
# that of the run.
optim_wrapper = dict(
    constructor="PerNetworkOptimWrapperConstructor",
    generator=dict(optimizer=dict(type="Adam", lr=1.6e-4, betas=(0.5, 0.9), fused=True)),
    discriminator=dict(optimizer=dict(type="Adam", lr=1e-4, betas=(0.5, 0.9), fused=True)),
)
param_scheduler = dict(
    generator=[dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False)],
    discriminator=[dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False)],
)
