# CIFAR-10 as Tables 6 to 8 of the paper have it: 4 GPUs with 32 images each.
_base_ = ["../ddgan_cifar10.py"]
model = dict(
    generator=dict(latent_dim=256, embedding_dim=512, num_mapping_layers=3),
    discriminator=dict(
        blocks=((128, False), (256, True), (512, True), (512, True), (512, True)), head_conv=False
    ),
    diffusion=dict(time_epsilon=0.0),
    r1_gamma=0.05,
    r1_interval=1,
)
train_dataloader = dict(batch_size=32)
train_cfg = dict(max_iters=400_000)
optim_wrapper = dict(discriminator=dict(optimizer=dict(lr=1e-4)))
