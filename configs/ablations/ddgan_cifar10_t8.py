# Table 2 of DDGAN, T = 8: FID 4.36, recall 0.56; 600,000 iterations (App. C.4).
_base_ = ["../ddgan_cifar10.py"]
model = dict(diffusion=dict(num_steps=8))
train_cfg = dict(max_iters=600_000)
