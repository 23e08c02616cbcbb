# CelebA-HQ at 256 x 256 as Tables 6 to 8 of the paper have it: 8 GPUs with 4 images each.
_base_ = ["../ddgan_celebahq256.py"]
model = dict(
    discriminator=dict(head_conv=False),
    diffusion=dict(num_steps=4, time_epsilon=0.0),
    r1_gamma=1.0,
    r1_interval=1,
    ema_decay=0.999,
)
train_cfg = dict(max_iters=750_000)
optim_wrapper = dict(generator=dict(optimizer=dict(lr=1.6e-4)))
