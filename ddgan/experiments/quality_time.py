"""The points of DDGAN's Fig. 4: published ones from Table 1, and this project's."""

import math
import re
from collections.abc import Iterable

from ddgan.experiments.measured import Measured, newest_of
from ddgan.experiments.published import TABLES
from ddgan.visualization import QualityTimePoint


def quality_time_points(measured: Iterable[Measured], score: str = "fid") -> list[QualityTimePoint]:
    """Return a point for each run that has both a score and a time, and for published systems.

    The published curves of Fig. 4 are not in the paper's text: these are the systems of the tables
    on CIFAR-10, at one number of steps each. They have an FID; for another ``score``, a column of
    the tables, there are none.
    """
    points = []
    for row in TABLES["spigan-2"].rows if score == "fid" else ():
        values = TABLES["spigan-2"].published(row.system)
        if values["fid"] is not None and values["time"] is not None:
            label = re.sub(r" \([^()]*\d{4}\w?\)$", "", row.system)
            points.append(QualityTimePoint(label, values["time"], values["fid"], False))
    for run in newest_of(measured, (score, "time")):
        quality, seconds = run.value(score), run.value("time")
        # FIDs of other data do not belong on the axis of CIFAR-10.
        comparable = score != "fid" or "cifar10" in run.config
        if comparable and quality is not None and seconds is not None and math.isfinite(quality):
            label = run.config + (f", NFE {run.nfe:g}" if run.nfe is not None else "")
            points.append(QualityTimePoint(label, seconds, quality, True))
    return points
