# Adam with the constant rate, β and ε of StyleGAN2; the paper's are not known. Lazy regularization
# every n iterations takes n / (n + 1) of the rate 0.0025 and of β2's exponent (Karras et al., 2020,
# App. B): n = 4 for the generator, 16 for the discriminator.
optim_wrapper = dict(
    constructor="PerNetworkOptimWrapperConstructor",
    generator=dict(
        optimizer=dict(type="Adam", lr=0.002, betas=(0.0, 0.99 ** (4 / 5)), eps=1e-8, fused=True)
    ),
    discriminator=dict(
        optimizer=dict(
            type="Adam", lr=0.0025 * 16 / 17, betas=(0.0, 0.99 ** (16 / 17)), eps=1e-8, fused=True
        )
    ),
)
