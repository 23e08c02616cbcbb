# 25 Gaussians with WGAN-GP (paper, Fig. 6): as gan_gaussians25.py, with the critic's five updates
# for one of the generator (Gulrajani et al., 2017). Their λ = 10 is for images: in the plane it
# holds the critic so flat that the generator circles around the data and stays there. An iteration
# is an update of the critic: five times as many give the generator 50,000 updates, as many as the
# other methods' have.
_base_ = ["gan_gaussians25.py"]
model = dict(type="WGANGP", critic_steps=5, penalty_weight=0.1)
train_cfg = dict(max_iters=250_000)
