# Table 2 of DDGAN, noise generation, with the paper's settings (App. C.4).
_base_ = ["../ddgan_cifar10.py"]
model = dict(parametrization="noise", generator=dict(tanh=False))
