# 25 Gaussians with a diffusion model of 100 steps (paper, Fig. 6).
_base_ = ["ddpm_gaussians25_t500.py"]
model = dict(diffusion=dict(num_steps=100))
