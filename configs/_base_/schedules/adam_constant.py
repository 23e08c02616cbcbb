# Adam with a constant rate for a model of one network (Ho et al., 2020, App. B).
optim_wrapper = dict(
    constructor="PerNetworkOptimWrapperConstructor",
    generator=dict(optimizer=dict(type="Adam", lr=2e-4, fused=True)),
)
