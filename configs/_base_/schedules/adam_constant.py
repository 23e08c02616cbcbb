# Adam for a model of one network, as DDPM was trained (Ho et al., 2020, App. B and their code): a
# constant rate after 5,000 iterations of linear warm-up, gradients clipped to a norm of 1.
optim_wrapper = dict(
    constructor="PerNetworkOptimWrapperConstructor",
    generator=dict(optimizer=dict(type="Adam", lr=2e-4, fused=True), clip_grad=dict(max_norm=1.0)),
)
param_scheduler = dict(
    generator=[dict(type="LinearLR", start_factor=1 / 5000, by_epoch=False, begin=0, end=5000)]
)
