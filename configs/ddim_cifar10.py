# CIFAR-10 with DDPM, sampled by DDIM in 50 steps: FID 4.67, 4.01 s for 100 images (Table 1 of
# DDGAN). Trained as ddpm_cifar10.py: weights of either serve both. Steps denser near the data, as
# DDIM's paper has them for CIFAR-10 (Song et al., 2021, App. D.2).
_base_ = ["ddpm_cifar10.py"]
model = dict(sampler="ddim", sampling_steps=50, spacing="quadratic", eta=0.0)
