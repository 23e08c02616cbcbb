# Adam with the constant rate, β and ε of StyleGAN2; the paper's are not known. StyleGAN2 lowers
# rate and β2 by n / (n + 1) for regularizers that take a step of their own every n iterations
# (Karras et al., 2020, App. B). Here they are added to the loss of a step that is taken anyway, so
# there is nothing to correct.
optim_wrapper = dict(
    constructor="PerNetworkOptimWrapperConstructor",
    generator=dict(optimizer=dict(type="Adam", lr=0.0025, betas=(0.0, 0.99), eps=1e-8, fused=True)),
    discriminator=dict(
        optimizer=dict(type="Adam", lr=0.0025, betas=(0.0, 0.99), eps=1e-8, fused=True)
    ),
)
