# Table 2 of DDGAN, no latent variable, with the paper's settings (App. C.4).
_base_ = ["../ddgan_cifar10.py"]
model = dict(generator=dict(latent_dim=0))
