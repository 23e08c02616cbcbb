# SPI-GAN for 32 x 32 images. The paper gives K = 2, the VP-SDE and "similar to StyleGAN2"; the
# sizes of its networks are in an appendix that is not public. What is not marked "paper" here is
# this project's choice: the networks and training of StyleGAN2-ADA's configuration for CIFAR-10,
# which the paper compares with and probably built on; a review of it says that ADA was used. R1 is
# the same at every t.
_base_ = ["stylegan2_32.py"]
model = dict(
    type="SPIGAN",
    num_points=2,  # paper: K with the best FID in Table 5
    update="per_time",  # paper: Algorithm 1 updates inside the loop over j
    sde="vp",  # paper
    beta_min=0.1,  # the customary VP-SDE; the paper's numbers are in its appendix
    beta_max=20.0,
    generator=dict(
        type="SPIGANGenerator",
        # Paper: "multiple fully-connected layers". As wide as StyleGAN2's latent and as slow as
        # its mapping. Four steps of RK4 cost 2 % of the synthesis network.
        mapping=dict(
            type="NeuralODEMapping",
            dim=512,
            hidden_dim=512,
            num_layers=3,
            lr_multiplier=0.01,
            solver="rk4",
            num_steps=4,
        ),
        synthesis=dict(
            type="StyleGAN2Generator",
            image_size=32,
            latent_dim=512,
            w_dim=512,
            num_mapping_layers=0,  # the neural ODE takes its place
            normalize_latent=False,  # h(t) moves freely; only StyleGAN2's z lies on a sphere
            architecture="skip",
            channel_base=32768,
            max_channels=512,
            clamp=256.0,  # for --amp
        ),
        pool_to=32,
    ),
    discriminator=dict(
        time_embedding_dim=256,  # P; the paper does not say how t enters
        num_time_layers=8,
    ),
)
