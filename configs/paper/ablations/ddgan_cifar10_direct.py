# Table 2 of DDGAN, direct denoising, with the paper's settings (App. C.4).
_base_ = ["../ddgan_cifar10.py"]
model = dict(parametrization="direct", generator=dict(tanh=False))
