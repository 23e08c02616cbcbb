"""The registries of the package: children of mmengine's root registries with scope ``ddgan``.

A component of an outside package registers itself in one of these and is then built from a config
by its name. The modules that define components are imported at the first lookup.
"""

import mmengine.registry as root
from mmengine.registry import Registry

SCOPE = "ddgan"
REGISTRIES: list[Registry] = []


def _child(parent: Registry, *locations: str) -> Registry:
    registry = Registry(parent.name, parent=parent, scope=SCOPE, locations=[*locations])
    REGISTRIES.append(registry)
    return registry


# Networks and models, and feature extractors: all are nn.Modules that a config names.
MODELS = _child(root.MODELS, "ddgan.models", "ddgan.networks", "ddgan.evaluation")
DATASETS = _child(root.DATASETS, "ddgan.data")
TRANSFORMS = _child(root.TRANSFORMS, "ddgan.data")
DATA_SAMPLERS = _child(root.DATA_SAMPLERS, "ddgan.data")
FUNCTIONS = _child(root.FUNCTIONS, "ddgan.data")
METRICS = _child(root.METRICS, "ddgan.evaluation")
RUNNERS = _child(root.RUNNERS, "ddgan.engine")
LOOPS = _child(root.LOOPS, "ddgan.engine")
HOOKS = _child(root.HOOKS, "ddgan.engine")
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, "ddgan.engine")
OPTIM_WRAPPER_CONSTRUCTORS = _child(root.OPTIM_WRAPPER_CONSTRUCTORS, "ddgan.engine")
OPTIMIZERS = _child(root.OPTIMIZERS, "ddgan.engine")
PARAM_SCHEDULERS = _child(root.PARAM_SCHEDULERS, "ddgan.engine")

# mmengine looks for every kind within the default scope and warns of one that it does not find.
for _parent in (
    root.EVALUATOR,
    root.INFERENCERS,
    root.LOG_PROCESSORS,
    root.MODEL_WRAPPERS,
    root.RUNNER_CONSTRUCTORS,
    root.STRATEGIES,
    root.TASK_UTILS,
    root.VISBACKENDS,
    root.VISUALIZERS,
    root.WEIGHT_INITIALIZERS,
):
    _child(_parent, "ddgan.engine")
