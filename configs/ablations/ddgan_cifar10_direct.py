# Table 2 of DDGAN, direct denoising: FID 6.03, recall 0.53. The generator's output is x_{t-1},
# which is not bounded as images are.
_base_ = ["../ddgan_cifar10.py"]
model = dict(parametrization="direct", generator=dict(tanh=False))
