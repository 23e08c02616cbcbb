# 25 Gaussians with a vanilla GAN (paper, Fig. 6): networks, batch, optimizer and length are those
# of DDGAN (App. C.5), with a latent of the same size and no regularizer.
_base_ = ["ddgan_gaussians25.py"]
model = dict(
    _delete_=True,
    type="GAN",
    generator=dict(type="MLPLatentGenerator", latent_dim=2, hidden_dim=512, num_layers=3),
    discriminator=dict(type="MLPUnconditionalDiscriminator", hidden_dim=512, num_layers=3),
    ema_decay=0.999,
    data_preprocessor=dict(type="PointPreprocessor"),
)
