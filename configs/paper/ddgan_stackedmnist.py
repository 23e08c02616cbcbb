# StackedMNIST with the paper's settings of CIFAR-10, 150,000 iterations and no flips (App. C.5).
_base_ = ["../ddgan_stackedmnist.py"]
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
optim_wrapper = dict(discriminator=dict(optimizer=dict(lr=1e-4)))
