# LSUN Church at 256 x 256 as Tables 6 to 8 of the paper have it: 8 GPUs with 8 images each.
_base_ = ["../ddgan_lsunchurch256.py"]
model = dict(
    generator=dict(base_channels=128),
    discriminator=dict(head_conv=False),
    diffusion=dict(time_epsilon=0.0),
    r1_interval=1,
)
train_cfg = dict(max_iters=600_000)
optim_wrapper = dict(generator=dict(optimizer=dict(lr=2e-4)))
