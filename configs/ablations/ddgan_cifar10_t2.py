# Table 2 of DDGAN, T = 2: FID 4.08, recall 0.54; 200,000 iterations (App. C.4).
_base_ = ["../ddgan_cifar10.py"]
model = dict(diffusion=dict(num_steps=2))
train_cfg = dict(max_iters=200_000)
