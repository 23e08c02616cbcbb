"""Training on top of mmengine: runner, loop, hooks, optimizers, and files of weights."""

from ddgan.engine.checkpoint import read_checkpoint, read_weights, save_release
from ddgan.engine.config import check_config, load_config
from ddgan.engine.evaluation_hook import EvaluateMetrics
from ddgan.engine.hooks import AtomicCheckpoint, EqualReplicas, SampleImages, TrainingLog
from ddgan.engine.loop import TrainLoop
from ddgan.engine.optim import PerNetworkOptimWrapperConstructor, PrecisionOptimWrapper
from ddgan.engine.runner import Runner

__all__ = [
    "AtomicCheckpoint",
    "EqualReplicas",
    "EvaluateMetrics",
    "PerNetworkOptimWrapperConstructor",
    "PrecisionOptimWrapper",
    "Runner",
    "SampleImages",
    "TrainLoop",
    "TrainingLog",
    "check_config",
    "load_config",
    "read_checkpoint",
    "read_weights",
    "save_release",
]
