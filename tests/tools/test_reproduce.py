import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ddgan.apis import load_model
from ddgan.engine import Runner, load_config, read_weights
from ddgan.errors import ConfigError, UserError
from ddgan.experiments import EXPERIMENTS, RUNS, TABLES, Form, Stage, make_plan
from ddgan.experiments.readme import published_values, write_readme
from ddgan.experiments.stages import check_unmixed, last_iteration, run_stage

ROOT = Path(__file__).parents[2]
TINY = (
    "train_cfg.max_iters=4",
    "train_dataloader.batch_size=8",
    "model.generator.hidden_dim=8",
    "default_hooks.logger.interval=1",
    "default_hooks.checkpoint.interval=2",
)
GAUSSIANS = ("gaussians25", "--small", "--only", "gan_gaussians25", "ddgan_gaussians25",
             "--num", 40, "--cfg-options", *TINY)  # fmt: skip


def shell(folder, script, *outputs, name="make", inputs=(), identity=None, **other):
    """Return a stage that runs a shell script."""
    command = ("sh", "-c", script)
    paths = tuple(folder / output for output in outputs)
    return Stage(name, folder, command, paths, identity or script, inputs, **other)


def test_a_stage_is_done_once(tmp_path):
    stage = shell(tmp_path, f"echo x >> {tmp_path}/out", "out")
    assert not stage.is_done()
    run_stage(stage)
    assert stage.is_done()
    assert (tmp_path / "out").read_text() == "x\n"
    assert stage.log.read_text().count("$ sh -c echo x") == 1
    (tmp_path / "out").unlink()
    assert not stage.is_done()


def test_another_command_or_other_inputs_make_a_stage_anew(tmp_path):
    first = shell(tmp_path, "true", name="first")
    second = shell(tmp_path, f"touch {tmp_path}/out", "out", inputs=(first,))
    run_stage(second)
    assert second.is_done()
    assert replace(second, command=("elsewhere",)).is_done()  # How it is run decides nothing.
    assert not replace(second, identity="other").is_done()
    assert not replace(second, inputs=(shell(tmp_path, "false", name="first"),)).is_done()


def test_a_failure_names_command_log_and_last_words(tmp_path):
    stage = shell(tmp_path, "echo so far; echo the cause >&2; exit 3", "out")
    with pytest.raises(UserError) as error:
        run_stage(stage)
    message = str(error.value)
    assert "make failed with status 3" in message
    assert "command: sh -c echo so far" in message
    assert f"log: {stage.log}" in message
    assert message.endswith("    so far\n    the cause")
    assert not stage.is_done()
    assert stage.read_stamp()["finished"] is None
    with pytest.raises(UserError, match="was killed by signal 9"):
        run_stage(shell(tmp_path, "kill -9 $$"))
    with pytest.raises(UserError, match=r"succeeded without writing .*/out"):
        run_stage(shell(tmp_path, "true", "out"))


def test_time_adds_up_over_attempts(tmp_path):
    stage = shell(tmp_path, f"test -e {tmp_path}/go && touch {tmp_path}/out", "out")
    with pytest.raises(UserError):
        run_stage(stage)
    stage.write_stamp(None, 100.0)
    (tmp_path / "go").touch()
    assert run_stage(stage) >= 100
    assert stage.read_stamp()["seconds"] >= 100


def test_a_folder_of_an_interrupted_tool_is_made_anew(tmp_path):
    own = tmp_path / "own"
    script = f"mkdir {own} && touch {own}/out"
    stage = shell(tmp_path, script, "own/out", own_folder=own)
    run_stage(stage)
    (own / "out").unlink()
    run_stage(stage)  # mkdir would fail if the folder were still there
    assert stage.is_done()


def test_an_interruption_ends_the_command(tmp_path):
    pid = tmp_path / "pid"
    script = f"echo $$ > {pid}; mkdir -p {tmp_path}/now/vis_data; "
    script += (
        f"echo '{{\"step\": 7}}' > {tmp_path}/now/vis_data/scalars.json; exec cat {tmp_path}/fifo"
    )
    subprocess.run(["mkfifo", tmp_path / "fifo"], check=True)

    def interrupt(iterations):
        assert iterations == 7
        raise KeyboardInterrupt

    stage = shell(tmp_path, script, iterations=10)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert not stage.is_done()


def test_the_last_iteration_is_that_of_the_newest_log(tmp_path):
    assert last_iteration(tmp_path) == 0
    for part, lines in {"1": '{"step": 90}\n', "2": '{"step": 60}\n{"step": 7'}.items():
        folder = tmp_path / part / "vis_data"
        folder.mkdir(parents=True)
        (folder / "scalars.json").write_text(lines)
    assert last_iteration(tmp_path) == 60


def form(out, **options):
    return Form(out, ROOT, **options)


@pytest.mark.parametrize("small", [True, False], ids=["small", "full"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_planned(name, small, tmp_path):
    experiment = EXPERIMENTS[name]
    plan = make_plan(experiment, form(tmp_path, small=small))
    figures = [stage for stage in plan.stages if stage.name.startswith("draw")]
    assert len(figures) == len(experiment.figures)
    assert set(experiment.runs) <= set(plan.runs)
    for stage in plan.stages:
        # Nothing was left to fill in, and every tool and config is there.
        assert not re.search(r"[{}]", " ".join(stage.command)), stage.command
        for part in stage.command[1:3]:
            assert not part.endswith((".py", ".sh")) or Path(part).is_file(), part
        assert all(tmp_path in output.parents for output in stage.outputs)
    made = {output for stage in plan.stages for output in stage.outputs}
    assert set(plan.checkpoints.values()) <= made
    assert bool(experiment.expected) or any(published_values(run) for run in plan.runs)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_readme_names_every_figure(name, tmp_path):
    plan = make_plan(EXPERIMENTS[name], form(tmp_path, small=True))
    figures = [stage for stage in plan.stages if stage.name.startswith("draw ")]
    text = write_readme(plan, "command").read_text()
    assert text.count(": not drawn yet.") == len(figures)
    for figure in figures:
        assert f"| {figure.name} |" in text


def test_every_run_has_a_place():
    used = {name for experiment in EXPERIMENTS.values() for name in experiment.runs}
    assert used == set(RUNS)
    assert all(Path(run.full.config).stem == run.name for run in RUNS.values())
    # Every published system that has a config of this project is trained by an experiment.
    resampled = {one.name for e in EXPERIMENTS.values() for one in e.resampled}
    named = {ours.config for t in TABLES.values() for ours in t.ours if ours.system is not None}
    assert named - {"spigan_cifar10_k2"} <= used | resampled


def test_a_training_is_shared(tmp_path):
    first = make_plan(EXPERIMENTS["ddgan-cifar10"], form(tmp_path, small=True))
    train = first.stages[0]
    train.write_stamp(None, 1.0)
    other = make_plan(EXPERIMENTS["training-stability"], form(tmp_path, small=True))
    assert other.stages[0].folder == train.folder
    changed = form(tmp_path, small=True, options={"model.r1_gamma": 0.1})
    assert make_plan(EXPERIMENTS["training-stability"], changed).stages[0].folder != train.folder
    # Another interval of the log is no other training.
    logged = form(tmp_path, small=True, options={"default_hooks.logger.interval": 3})
    assert make_plan(EXPERIMENTS["training-stability"], logged).stages[0].folder == train.folder


def test_other_settings_do_not_go_into_the_same_folder(tmp_path):
    plans = [
        make_plan(EXPERIMENTS["ddgan-cifar10"], form(tmp_path, small=True, options=options))
        for options in ({}, {"model.r1_gamma": 0.1})
    ]
    first, second = (plan.stages[0] for plan in plans)
    assert first.folder == second.folder
    first.write_stamp("today", 1.0)
    check_unmixed(first)
    with pytest.raises(UserError, match="holds a training with other settings"):
        check_unmixed(second)


def test_processes_are_part_of_what_is_trained(tmp_path):
    stages = [
        make_plan(EXPERIMENTS["ddgan-cifar10"], form(tmp_path, gpus=gpus)).stages[0]
        for gpus in (None, 4, 1, 0)
    ]
    assert len({stage.digest for stage in stages[:2]}) == 1
    assert len({stage.digest for stage in stages[2:]}) == 1
    assert stages[0].digest != stages[2].digest
    assert stages[0].command[1].endswith("dist_train.sh")
    assert stages[0].command[3] == "4"


def test_mistakes_end_with_one_message(tmp_path, call_tool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, part in {
        ("nothing",): "there is no experiment 'nothing'; known are denoising-1d",
        ("gaussians25", "--only", "x"): "--only ['x']: gaussians25 has the runs ['gan_gaussians25'",
        ("gaussians25", "--small", "--cfg-options", "model.x=1"): "has no key 'x'",
        ("ddgan-cifar10",): "ddgan-cifar10 is made for 4 GPUs and this machine has",
    }.items():
        status, output = call_tool("reproduce", *arguments)
        assert status == 1, output
        assert part in output
    assert not list(tmp_path.rglob("*.pth"))


def test_the_list_shows_every_experiment(call_tool):
    status, output = call_tool("reproduce", "--list")
    assert status == 0
    for name in EXPERIMENTS:
        assert re.search(rf"^{name} ", output, re.M), name
    costs = re.search(r"^ddgan-cifar10 .* (\S+) +(\S+)\s*$", output, re.M)
    assert costs.groups() == ("192", "1")


def test_a_small_form_that_runs_share_is_counted_once(load_tool):
    costs = load_tool("reproduce").costs
    alone, twice = (costs(EXPERIMENTS[name]) for name in ("ddgan-celebahq256", "multimodal"))
    assert (alone[0], twice[0]) == ("1,440", "2,880")
    assert alone[1] == twice[1]


def test_the_document_lists_every_experiment_and_training(load_tool):
    text = (ROOT / "docs" / "experiments.md").read_text()
    costs = load_tool("reproduce").costs
    for experiment in EXPERIMENTS.values():
        runs = ", ".join(f"`{run}`" for run in experiment.runs) or "–"
        start = f"| `{experiment.name}` | {experiment.source} | "
        line = next(line for line in text.splitlines() if line.startswith(start))
        assert line.endswith(f" | {' | '.join([runs, *costs(experiment)])} |")
    for run in RUNS.values():
        assert f"| `{run.name}` | `{run.full.config}` | {max(run.gpus, 1)} | " in text


def test_killed_between_stages_it_goes_on(tmp_path, start_tool, call_tool):
    command = [sys.executable, ROOT / "tools/reproduce.py", *GAUSSIANS, "--out", tmp_path]
    process = start_tool(command, tmp_path)
    for line in process.stdout:
        if "[1/4] train gan_gaussians25-small: done" in line:
            process.terminate()
            break
    rest = process.communicate(timeout=120)[0]
    assert process.returncode == 130, rest
    folder = tmp_path / "gaussians25-small"
    readme = (folder / "README.md").read_text()
    assert "| gan_gaussians25 |" in readme
    assert "not yet |" in readme
    # As if the first training had been interrupted after its first checkpoint.
    first = folder / "gan_gaussians25-small"
    (first / "iter_4.pth").unlink()
    (first / "last_checkpoint").write_text("iter_2.pth\n")

    status, output = call_tool("reproduce", *GAUSSIANS, "--out", tmp_path)
    assert status == 0, output
    assert "Resumed from" in (first / "logs" / "train.log").read_text()
    assert "iter_2.pth at iteration 2" in (first / "logs" / "train.log").read_text()
    assert len(re.findall(r"\[\d/4\] .*: done in", output)) == 4

    made = {path: path.stat().st_mtime_ns for path in folder.rglob("iter_*")}
    status, output = call_tool("reproduce", *GAUSSIANS, "--out", tmp_path)
    assert status == 0, output
    assert len(re.findall(r"\[\d/4\] .*: done before", output)) == 4
    assert made == {path: path.stat().st_mtime_ns for path in folder.rglob("iter_*")}
    check_readme(folder)


def check_readme(folder):
    readme = (folder / "README.md").read_text()
    assert "DDGAN, Fig. 6" in readme
    assert "This is the small form" in readme
    assert "must not be compared" in readme
    assert "vanilla GAN suffers from severe mode collapse" in readme
    for run, nfe in {"gan_gaussians25": 1, "ddgan_gaussians25": 4}.items():
        record = json.loads((folder / f"{run}-small" / "iter_4_modes.json").read_text())
        assert record["protocol"]["num"] == 40
        values = record["values"]
        line = next(line for line in readme.splitlines() if line.startswith(f"| {run} |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1:4] == [str(nfe), str(values["modes"]), f"{values['kl']:.3f}"]
        assert cells[4] == f"{values['high_quality']:.3f}"
        assert cells[5].startswith("iteration 4, 40 samples")
        assert (folder / f"{run}-small" / f"{run}.py").is_file()
    for log in re.findall(r"\[log\]\((.*?)\)", readme):
        assert (folder / log).is_file(), log
    assert len(re.findall(r"\| done \d{4}-", readme)) == 4


def test_the_comparison_is_of_recorded_scores(tmp_path, call_tool, trained):
    checkpoint = tmp_path / "run" / "iter_6.pth"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes((trained("points") / "iter_6.pth").read_bytes())
    out = tmp_path / "figure.png"
    arguments = (checkpoint, "--num", 30, "--device", "cpu", "--out", out)
    status, output = call_tool("compare", *arguments)
    assert status == 1
    assert "iter_6_modes.json; write it first: python tools/test.py" in output
    status, output = call_tool("test", checkpoint, "--metric", "modes", "--num", 50)
    assert status == 0, output
    status, output = call_tool("compare", *arguments, "--names", "a", "b")
    assert status == 1
    assert "--names has 2 for 1 checkpoints" in output
    status, output = call_tool("compare", *arguments, "--names", "A")
    assert status == 0, output
    assert out.stat().st_size > 5_000


def test_exported_weights_are_sampled_by_other_settings(tmp_path, call_tool):
    options = {
        "train_cfg.max_iters": 1,
        "train_dataloader.batch_size": 4,
        "model.generator.hidden_dim": 8,
        "default_hooks.checkpoint.interval": 1,
    }
    cfg = load_config(ROOT / "configs" / "ddpm_gaussians25_t100.py", options)
    cfg.work_dir, cfg.device = str(tmp_path / "run"), "cpu"
    Runner.from_cfg(cfg).train()
    checkpoint, out = tmp_path / "run" / "iter_1.pth", tmp_path / "ddim" / "iter_1.safetensors"
    steps = ("--cfg-options", "model.sampler=ddim", "model.sampling_steps=5")
    status, output = call_tool("export", checkpoint, out, "--name", "ddim5", *steps)
    assert status == 0, output
    assert load_model(checkpoint, "cpu").num_evaluations == 100
    assert load_model(out, "cpu").num_evaluations == 5
    (_, before, info), (config, after, same) = read_weights(checkpoint), read_weights(out)
    assert after.keys() == {name for name in before if name.startswith("generator_ema.")}
    assert all((tensor == before[name]).all() for name, tensor in after.items())
    assert same == info
    assert config.experiment_name == "ddim5"
    status, output = call_tool("export", checkpoint, tmp_path / "x.pth")
    assert status == 1
    assert "expected the name of a .safetensors file" in output
    status, output = call_tool("export", checkpoint, out, "--cfg-options", "model.sampling_stps=5")
    assert status == 1
    assert "did you mean 'sampling_steps'" in output


def test_a_config_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(ConfigError, match="'hiden_dim'"):
        make_plan(
            EXPERIMENTS["gaussians25"],
            form(tmp_path, small=True, options={"model.generator.hiden_dim": 3}),
        )
