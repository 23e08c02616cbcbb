# Table 2 of DDGAN, T = 1: FID 14.6, recall 0.19. An unconditional GAN, since x_1 holds almost
# nothing of x_0; 200,000 iterations (App. C.4).
_base_ = ["../ddgan_cifar10.py"]
model = dict(diffusion=dict(num_steps=1))
train_cfg = dict(max_iters=200_000)
