# Adam of both networks with StyleGAN2's β, ε and constant rate; the paper's are not known. Lazy
# regularization every n iterations costs StyleGAN2 a factor n / (n + 1) in the rate and as an
# exponent of β2; leaf configs apply it with their intervals.
optim_wrapper = dict(
    constructor="PerNetworkOptimWrapperConstructor",
    generator=dict(optimizer=dict(type="Adam", lr=2e-3, betas=(0.0, 0.99), eps=1e-8, fused=True)),
    discriminator=dict(
        optimizer=dict(type="Adam", lr=2e-3, betas=(0.0, 0.99), eps=1e-8, fused=True)
    ),
)
