import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddgan.apis import load_model
from ddgan.engine import Runner, load_config, read_weights
from ddgan.errors import ConfigError, UserError
from ddgan.evaluation.records import write_record
from ddgan.experiments import (
    EXPERIMENTS,
    TABLES,
    TRAININGS,
    Options,
    Step,
    find_problems,
    make_plan,
    preflight,
    report_of,
    run_step,
    write_readme,
)
from ddgan.experiments.catalogue import ROOT, global_batch_size, published_values
from ddgan.experiments.plan import figure_file
from ddgan.experiments.readme import CAPTIONS
from ddgan.experiments.steps import last_iteration

TINY = (
    "train_cfg.max_iters=4",
    "train_dataloader.batch_size=8",
    "model.generator.hidden_dim=8",
    "default_hooks.logger.interval=1",
    "default_hooks.checkpoint.interval=2",
)
GAUSSIANS = ("gaussians25", "--small", "--only", "ddgan_gaussians25",
             "--num", 40, "--cfg-options", *TINY)  # fmt: skip


def shell(folder, script, *outputs, **other):
    """A step that runs a shell script."""
    paths = tuple(folder / output for output in outputs)
    return Step("make", folder, ("sh", "-c", script), paths, **other)


def test_a_step_is_done_once_its_outputs_exist(tmp_path):
    step = shell(tmp_path, f"echo x >> {tmp_path}/out", "out")
    assert not step.is_done()
    run_step(step)
    assert step.is_done()
    assert (tmp_path / "out").read_text() == "x\n"
    assert step.log.read_text().count("$ sh -c echo x") == 1
    (tmp_path / "out").unlink()
    assert not step.is_done()


def test_newer_inputs_make_a_step_due_again(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    step = shell(tmp_path, "", "out", inputs=(source,))
    out.touch()
    assert not step.is_done()
    source.touch()
    for when, done in ((-1, True), (+1, False)):
        os.utime(source, (out.stat().st_mtime + when,) * 2)
        assert step.is_done() is done


def test_records_of_another_number_of_samples_are_not_what_is_asked_for(tmp_path):
    record = write_record(tmp_path / "iter_4.pth", "modes", {"modes": 1}, {"num": 40})
    step = shell(tmp_path, "", record.name)
    assert step.is_done()
    assert replace(step, num=40).is_done()
    assert not replace(step, num=50).is_done()
    record.write_text("{")
    assert not replace(step, num=40).is_done()


def test_a_failure_names_command_log_and_last_words(tmp_path):
    step = shell(tmp_path, "echo so far; echo the cause >&2; exit 3", "out")
    with pytest.raises(UserError) as error:
        run_step(step)
    message = str(error.value)
    assert "make failed with status 3" in message
    assert "command: sh -c echo so far" in message
    assert f"log: {step.log}" in message
    assert message.endswith("    so far\n    the cause")
    with pytest.raises(UserError, match="was killed by signal 9"):
        run_step(shell(tmp_path, "kill -9 $$"))
    with pytest.raises(UserError, match=r"succeeded without writing .*/out"):
        run_step(shell(tmp_path, "true", "out"))


def test_the_scripts_start_the_same_python(tmp_path):
    run_step(shell(tmp_path, f'echo "$PYTHON" > {tmp_path}/out', "out"))
    assert (tmp_path / "out").read_text().strip() == sys.executable


def test_what_an_interrupted_tool_left_in_its_folder_is_removed(tmp_path):
    own = tmp_path / "own"
    step = shell(tmp_path, f"mkdir {own} && touch {own}/out", "own/out", own_folder=own)
    own.mkdir()
    run_step(step)  # mkdir would fail if the folder were still there
    assert step.is_done()


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

    with pytest.raises(KeyboardInterrupt):
        run_step(shell(tmp_path, script, iterations=10), interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_last_iteration_is_that_of_the_newest_log(tmp_path):
    assert last_iteration(tmp_path) == 0
    for part, lines in {"1": '{"step": 90}\n', "2": '{"step": 60}\n{"step": 7'}.items():
        folder = tmp_path / part / "vis_data"
        folder.mkdir(parents=True)
        (folder / "scalars.json").write_text(lines)
    assert last_iteration(tmp_path) == 60


@pytest.mark.parametrize("small", [True, False], ids=["small", "full"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_planned(name, small, tmp_path):
    experiment = EXPERIMENTS[name]
    plan = make_plan(experiment, Options(tmp_path, small=small))
    figures = [step for step in plan.steps if step.name.startswith("draw")]
    assert [step.name for step in figures] == [
        f"draw {figure_file(*f)}" for f in experiment.figures
    ]
    assert {*experiment.trainings, *experiment.resampled} == set(plan.folders)
    for step in plan.steps:
        for part in step.command[1:3]:  # Every tool and config is there.
            assert not part.endswith((".py", ".sh")) or Path(part).is_file(), part
        assert all(tmp_path in output.parents for output in step.outputs)
    made = {output for step in plan.steps for output in step.outputs}
    assert set(plan.checkpoints.values()) <= made
    assert bool(experiment.expected) or any(map(published_values, plan.folders))

    text = write_readme(plan, "command").read_text()
    assert text.count(": not drawn yet.") == len(figures)
    assert all(f"| {step.name} | to do |" in text for step in plan.steps)


def test_the_catalogue_is_complete():
    experiments = EXPERIMENTS.values()
    used = {name for experiment in experiments for name in experiment.trainings}
    assert used == set(TRAININGS)
    assert {kind for experiment in experiments for kind, _ in experiment.figures} == set(CAPTIONS)
    for experiment in experiments:
        assert {name for _, name in experiment.figures} - {None} <= set(experiment.trainings)
        assert {one["of"] for one in experiment.resampled.values()} <= set(experiment.trainings)
    # Every published system that has a config of this project is trained by an experiment.
    resampled = {name for experiment in experiments for name in experiment.resampled}
    named = {c for table in TABLES.values() for c, system in table.ours.items() if system}
    assert named - {"spigan_cifar10_k2"} <= used | resampled


def begun(plan):
    """Leave the config of a plan's first training where a run would."""
    command = plan.steps[0].command
    start = command.index("--cfg-options") + 1 if "--cfg-options" in command else len(command)
    options = dict(pair.split("=", 1) for pair in command[start:])
    cfg = load_config(command[2], {k: json.loads(v) for k, v in options.items()})
    plan.steps[0].folder.mkdir(parents=True)
    cfg.dump(plan.steps[0].folder / Path(command[2]).name)


def test_a_training_is_shared_by_experiments_and_kept_from_other_settings(tmp_path):
    def train(name, **settings):
        return make_plan(EXPERIMENTS[name], Options(tmp_path, small=True, overrides=settings))

    first = train("ddgan-cifar10")
    begun(first)
    folder = first.steps[0].folder
    assert train("ddgan-cifar10").steps[0].folder == folder
    assert train("training-stability").steps[0].folder == folder
    changed = train("training-stability", **{"model.r1_gamma": 0.1})
    assert changed.steps[0].folder != folder
    # Another interval of the log is no other training.
    logged = train("training-stability", **{"default_hooks.logger.interval": 3})
    assert logged.steps[0].folder == folder
    with pytest.raises(UserError, match="holds a training with other settings"):
        train("ddgan-cifar10", **{"model.r1_gamma": 0.1})
    # Nor are keys of the loader, which were others in earlier versions.
    with open(folder / "ddgan_stackeddigits.py", "a") as file:
        file.write("\ntrain_dataloader['persistent_workers'] = False\n")
    assert train("training-stability").steps[0].folder == folder
    (folder / "ddgan_stackeddigits.py").write_text("model = dict(")
    with pytest.raises(UserError, match="holds a training with other settings"):
        train("ddgan-cifar10")


def test_trainings_with_the_same_small_form_are_one(tmp_path):
    plan = make_plan(EXPERIMENTS["multimodal"], Options(tmp_path, small=True))
    assert len(plan.folders) == 2
    assert len(set(plan.folders.values())) == 1
    assert [step.name.split()[0] for step in plan.steps] == ["train", "draw", "draw"]


def full(out, name="ddgan-cifar10", **options):
    return make_plan(EXPERIMENTS[name], Options(out, **options))


def test_any_number_of_processes_trains_with_the_same_global_batch(tmp_path):
    for gpus, script, batch in ((4, "dist_train.sh", 64), (2, "dist_train.sh", 128),
                                (1, "train.py", 256)):  # fmt: skip
        command = full(tmp_path, gpus=gpus).steps[0].command
        assert command[1].endswith(script)
        assert f"train_dataloader.batch_size={batch}" in command
    chosen = full(tmp_path, gpus=2, overrides={"train_dataloader.batch_size": 8})
    assert "train_dataloader.batch_size=8" in chosen.steps[0].command
    assert not any("batch_size" in part for part in full(tmp_path).steps[0].command)


def test_slurm_starts_every_step_with_several_processes(tmp_path):
    plan = full(tmp_path, launcher="slurm")
    for step in plan.steps:
        if step.name.startswith(("train", "test")):
            assert step.command[:3] == ("srun", "--kill-on-bad-exit=1", "--ntasks=4")
            assert step.command[3] == sys.executable
            assert "--launcher slurm" in " ".join(step.command)


def test_full_runs_keep_and_measure_checkpoints_to_choose_from(tmp_path):
    """DDGAN, App. C.4: until the FID score does not increase any further."""
    plan = full(tmp_path)
    assert "default_hooks.checkpoint.keep_every=50000" in plan.steps[0].command
    tests = {step.name.split()[-1]: step for step in plan.steps if step.name.startswith("test")}
    kept = [f"iter_{i}" for i in range(50_000, 351_195, 50_000)]
    assert list(tests) == ["iter_351195", *kept]
    metrics = {
        name: step.command[step.command.index("--metric") + 1 :] for name, step in tests.items()
    }
    assert metrics["iter_351195"] == ("fid", "is", "recall", "time")
    assert metrics["iter_50000"] == ("fid", "is", "recall")


def test_the_papers_settings_exist_for_every_row(tmp_path):
    """Batches of 128 for Tables 2 and 3; T = 8 sees 1.5 times the images of T = 4."""
    images = {}
    for name in ("ddgan-ablations", "stackedmnist", "ddgan-celebahq256", "ddgan-lsunchurch256"):
        plan = full(tmp_path, name, settings="paper")
        assert plan.folder.name == f"{name}-paper"
        for training, folder in plan.folders.items():
            if training.startswith("spigan"):
                continue
            assert folder.name == f"{training}-paper"
            cfg = plan.configs[folder]
            batch = cfg.train_dataloader.batch_size * TRAININGS[training].gpus
            assert batch == global_batch_size(folder.name)
            assert batch == 128 or "256" in training
            assert cfg.model.r1_interval == 1
            assert cfg.model.diffusion.time_epsilon == 0
            images[training] = batch * cfg.train_cfg.max_iters
    ratios = {name: images[f"ddgan_cifar10{name}"] / images["ddgan_cifar10"] for name in
              ("_t1", "_t2", "_t8", "_direct")}  # fmt: skip
    assert ratios == {"_t1": 0.5, "_t2": 0.5, "_t8": 1.5, "_direct": 1.0}
    assert images["ddgan_stackedmnist"] == 128 * 150_000


def test_the_ablations_change_the_same_in_both_settings():
    for name in TRAININGS:
        entry = TRAININGS[name]
        if not name.startswith("ddgan_cifar10_"):
            continue
        texts = [re.sub(r"(?m)^(#|_base_).*\n", "", path.read_text())
                 for path in (entry.full.config, entry.paper.config)]  # fmt: skip
        assert texts[0] == texts[1], name


def test_figures_of_single_steps_have_the_papers_four(tmp_path):
    plan = full(tmp_path, "multimodal")
    assert [cfg.model.diffusion.num_steps for cfg in plan.configs.values()] == [4, 4]


@pytest.fixture
def no_weights(monkeypatch):
    monkeypatch.setattr(preflight, "extractor_problem", lambda extractor: "there are no weights")


def test_all_that_is_missing_is_found_before_the_first_step(tmp_path, monkeypatch, no_weights):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NNODES", "2")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**30))
    problems = find_problems(full(tmp_path, "spigan-ablations", num=4))
    text = report_of(problems)
    assert f"{len(problems)} problem(s)" in text
    assert "NNODES is set" in text
    assert re.search("is made for 4 GPUs and this machine has [0-3]:", text)
    # Said once for all trainings that lack it.
    (data,) = [line for line in problems if "data_batch_1 is missing" in line]
    assert data.startswith("ddgan_cifar10_t1, spigan_cifar10_k1, spigan_cifar10, ")
    assert len([line for line in problems if "there are no weights" in line]) == 1
    assert any("is: 4 samples are asked for; it takes at least 10" in line for line in problems)
    assert re.search(r"the checkpoints take \d+ GiB and 1 are free", text)


def test_an_experiment_that_lacks_nothing_has_no_problems(tmp_path):
    for name in ("gaussians25", "quality-time", "denoising-1d"):
        assert find_problems(make_plan(EXPERIMENTS[name], Options(tmp_path, small=True))) == []


def test_what_is_missing_ends_the_tool_before_anything_runs(tmp_path, call_tool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, output = call_tool("reproduce", "stackedmnist", "--gpus", 1)
    assert status == 1
    assert "1 problem(s) to solve first" in output
    assert "ddgan_stackedmnist, spigan_stackedmnist: " in output
    assert "data/mnist" in output
    assert not list(tmp_path.iterdir())
    status, dry = call_tool("reproduce", "stackedmnist", "--gpus", 1, "--dry-run")
    assert status == 0
    assert output.removeprefix("error: ").strip() in dry


def test_mistakes_end_with_one_message(tmp_path, call_tool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, part in {
        ("nothing",): "there is no experiment 'nothing'; known are denoising-1d",
        (
            "gaussians25",
            "--only",
            "x",
        ): "--only ['x']: gaussians25 has the trainings ['gan_gaussians25'",
        ("gaussians25", "--small", "--cfg-options", "model.x=1"): "has no key 'x'",
        ("ddgan-cifar10", "--gpus", 3): "global batch of 256, which 3 processes cannot share",
    }.items():
        status, output = call_tool("reproduce", *arguments)
        assert status == 1, output
        assert part in output
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize(("arguments", "installs"), [("x", True), ("x --small", False)])
def test_the_script_installs_what_metrics_need(tmp_path, arguments, installs):
    """With a stand-in for Python that writes down what it is asked for."""
    (tmp_path / "tools").mkdir()
    script = tmp_path / "tools" / "reproduce.sh"
    script.write_text((ROOT / "tools" / "reproduce.sh").read_text())
    (tmp_path / "tools" / "setup_env.sh").write_text(f'PATH="{tmp_path}:$PATH"\n')
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" != -c ]\n')
    python.chmod(0o755)
    subprocess.run(["bash", script, *arguments.split()], check=True)
    *before, last = (tmp_path / "calls").read_text().splitlines()
    assert last == f"tools/reproduce.py {arguments}"
    assert (
        any("pip install" in call and "torch-fidelity timm" in call for call in before) == installs
    )


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
        trainings = ", ".join(f"`{name}`" for name in experiment.trainings) or "–"
        start = f"| `{experiment.name}` | {experiment.source} | "
        line = next(line for line in text.splitlines() if line.startswith(start))
        assert line.endswith(f" | {' | '.join([trainings, *costs(experiment)])} |")
    for training in TRAININGS.values():
        config = training.full.config.relative_to(ROOT)
        assert f"| `{training.name}` | `{config}` | {max(training.gpus, 1)} | " in text


def test_killed_between_steps_it_continues(tmp_path, start_tool, call_tool):
    command = [sys.executable, ROOT / "tools/reproduce.py", *GAUSSIANS, "--out", tmp_path]
    process = start_tool(command, tmp_path)
    for line in process.stdout:
        if "[1/2] train ddgan_gaussians25-small: done" in line:
            process.terminate()
            break
    rest = process.communicate(timeout=120)[0]
    assert process.returncode == 130, rest
    folder = tmp_path / "gaussians25-small"
    run = folder / "ddgan_gaussians25-small"
    readme = (folder / "README.md").read_text()
    assert "| test ddgan_gaussians25-small iter_4 | " in readme
    assert "not yet |" in readme
    # As if the training had been interrupted after its first checkpoint.
    (run / "iter_4.pth").unlink()
    (run / "last_checkpoint").write_text("iter_2.pth\n")

    status, output = call_tool("reproduce", *GAUSSIANS, "--out", tmp_path)
    assert status == 0, output
    log = (run / "logs" / "train-ddgan_gaussians25-small.log").read_text()
    assert "iter_2.pth at iteration 2" in log
    assert len(re.findall(r"\[\d/2\] .*: done in", output)) == 2

    made = {path: path.stat().st_mtime_ns for path in folder.rglob("iter_*")}
    status, output = call_tool("reproduce", *GAUSSIANS, "--out", tmp_path)
    assert status == 0, output
    assert len(re.findall(r"\[\d/2\] .*: done before", output)) == 2
    assert made == {path: path.stat().st_mtime_ns for path in folder.rglob("iter_*")}
    check_readme(folder, run)


def check_readme(folder, run):
    readme = (folder / "README.md").read_text()
    assert "DDGAN, Fig. 6" in readme
    assert "This is the small form" in readme
    assert "must not be compared" in readme
    assert "vanilla GAN suffers from severe mode collapse" in readme
    record = json.loads((run / "iter_4_modes.json").read_text())
    assert record["protocol"]["num"] == 40
    values = record["values"]
    line = next(row for row in readme.splitlines() if row.startswith("| ddgan_gaussians25 |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:4] == ["4", str(values["modes"]), f"{values['kl']:.3f}"]
    assert cells[4] == f"{values['high_quality']:.3f}"
    assert cells[5].startswith("iteration 4, 40 samples")
    assert (run / "ddgan_gaussians25.py").is_file()
    for log in re.findall(r"\[log\]\((.*?)\)", readme):
        assert (folder / log).is_file(), log
    assert len(re.findall(r"\| done \d{4}-", readme)) == 2


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
    assert "x.pth" in output
    assert ".safetensors" in output
    status, output = call_tool("export", checkpoint, out, "--cfg-options", "model.sampling_stps=5")
    assert status == 1
    assert "did you mean 'sampling_steps'" in output


def test_a_config_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(ConfigError, match="'hiden_dim'"):
        make_plan(
            EXPERIMENTS["gaussians25"],
            Options(tmp_path, small=True, overrides={"model.generator.hiden_dim": 3}),
        )
