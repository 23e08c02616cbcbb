default_scope = "ddgan"
train_cfg = dict(type="TrainLoop")
default_hooks = dict(
    logger=dict(type="TrainingLog", interval=100),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="AtomicCheckpoint", interval=10_000, max_keep_ckpts=3),
)
custom_hooks = [dict(type="SampleImages", interval=5_000, num=64)]
visualizer = dict(
    type="Visualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)
env_cfg = dict(cudnn_benchmark=True, dist_cfg=dict(timeout=1800))
randomness = dict(seed=1024)
