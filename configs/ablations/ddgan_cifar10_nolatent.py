# Table 2 of DDGAN, no latent variable: FID 20.6, recall 0.42. Plain group norms and no mapping
# network (App. C.4).
_base_ = ["../ddgan_cifar10.py"]
model = dict(generator=dict(latent_dim=0))
