# Table 2 of DDGAN, T = 1; 200,000 iterations, with the paper's settings (App. C.4).
_base_ = ["../ddgan_cifar10.py"]
model = dict(diffusion=dict(num_steps=1))
train_cfg = dict(max_iters=200_000)
