# Table 2 of DDGAN, noise generation: FID 8.04, recall 0.52. The generator's output is the noise in
# x_t, which is not bounded as images are.
_base_ = ["../ddgan_cifar10.py"]
model = dict(parametrization="noise", generator=dict(tanh=False))
