# CelebA-HQ at 256 x 256 as in the official release: two denoising steps, 8 GPUs with 4 images
# each, 801 epochs of 843 iterations.
_base_ = [
    "_base_/models/ddgan_256.py",
    "_base_/datasets/celebahq256.py",
    "_base_/schedules/adam_cosine.py",
    "_base_/default_runtime.py",
]
train_cfg = dict(max_iters=675_243)
model = dict(diffusion=dict(num_steps=2), r1_gamma=2.0, ema_decay=0.9999)
optim_wrapper = dict(generator=dict(optimizer=dict(lr=2e-4)))
