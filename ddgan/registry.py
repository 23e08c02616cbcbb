"""The registries of the package: children of mmengine's root registries with scope ``ddgan``.

A component of an outside package registers itself in one of these
and is then built from a config by its name. Modules that hold registered components are imported
on the first lookup, through ``locations``.
"""

from mmengine.registry import DATA_SAMPLERS as MM_DATA_SAMPLERS
from mmengine.registry import DATASETS as MM_DATASETS
from mmengine.registry import EVALUATOR as MM_EVALUATOR
from mmengine.registry import FUNCTIONS as MM_FUNCTIONS
from mmengine.registry import HOOKS as MM_HOOKS
from mmengine.registry import INFERENCERS as MM_INFERENCERS
from mmengine.registry import LOG_PROCESSORS as MM_LOG_PROCESSORS
from mmengine.registry import LOOPS as MM_LOOPS
from mmengine.registry import METRICS as MM_METRICS
from mmengine.registry import MODEL_WRAPPERS as MM_MODEL_WRAPPERS
from mmengine.registry import MODELS as MM_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MM_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MM_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS as MM_OPTIMIZERS
from mmengine.registry import PARAM_SCHEDULERS as MM_PARAM_SCHEDULERS
from mmengine.registry import RUNNER_CONSTRUCTORS as MM_RUNNER_CONSTRUCTORS
from mmengine.registry import RUNNERS as MM_RUNNERS
from mmengine.registry import STRATEGIES as MM_STRATEGIES
from mmengine.registry import TASK_UTILS as MM_TASK_UTILS
from mmengine.registry import TRANSFORMS as MM_TRANSFORMS
from mmengine.registry import VISBACKENDS as MM_VISBACKENDS
from mmengine.registry import VISUALIZERS as MM_VISUALIZERS
from mmengine.registry import WEIGHT_INITIALIZERS as MM_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

SCOPE = "ddgan"


def _child(parent: Registry, *locations: str) -> Registry:
    return Registry(parent.name, parent=parent, scope=SCOPE, locations=list(locations))


MODELS = _child(MM_MODELS, "ddgan.models", "ddgan.networks", "ddgan.evaluation")
DATASETS = _child(MM_DATASETS, "ddgan.data")
TRANSFORMS = _child(MM_TRANSFORMS, "ddgan.data")
DATA_SAMPLERS = _child(MM_DATA_SAMPLERS, "ddgan.data")
METRICS = _child(MM_METRICS, "ddgan.evaluation")
EVALUATOR = _child(MM_EVALUATOR, "ddgan.evaluation")
FUNCTIONS = _child(MM_FUNCTIONS, "ddgan.data")
RUNNERS = _child(MM_RUNNERS, "ddgan.engine")
LOOPS = _child(MM_LOOPS, "ddgan.engine")
HOOKS = _child(MM_HOOKS, "ddgan.engine")
OPTIM_WRAPPERS = _child(MM_OPTIM_WRAPPERS, "ddgan.engine")
OPTIM_WRAPPER_CONSTRUCTORS = _child(MM_OPTIM_WRAPPER_CONSTRUCTORS, "ddgan.engine")
OPTIMIZERS = _child(MM_OPTIMIZERS, "ddgan.engine")
PARAM_SCHEDULERS = _child(MM_PARAM_SCHEDULERS, "ddgan.engine")
MODEL_WRAPPERS = _child(MM_MODEL_WRAPPERS, "ddgan.engine")
LOG_PROCESSORS = _child(MM_LOG_PROCESSORS, "ddgan.engine")
# mmengine searches every kind within the default scope and warns about each one that a package
# does not define, so the kinds that this package adds nothing to are defined as well.
RUNNER_CONSTRUCTORS = _child(MM_RUNNER_CONSTRUCTORS, "ddgan.engine")
STRATEGIES = _child(MM_STRATEGIES, "ddgan.engine")
TASK_UTILS = _child(MM_TASK_UTILS, "ddgan.engine")
WEIGHT_INITIALIZERS = _child(MM_WEIGHT_INITIALIZERS, "ddgan.engine")
VISBACKENDS = _child(MM_VISBACKENDS, "ddgan.engine")
VISUALIZERS = _child(MM_VISUALIZERS, "ddgan.engine")
INFERENCERS = _child(MM_INFERENCERS, "ddgan.engine")
