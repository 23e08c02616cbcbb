"""Documents, metadata and settings agree with the repository they describe."""

import ast
import importlib
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
import yaml

import ddgan

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
YAML_FILES = sorted([*ROOT.glob(".pre-commit-config.yaml"), *ROOT.glob(".github/**/*.yml")])
CODE_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def page_id(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(params=PAGES, ids=page_id)
def page(request):
    return request.param


def anchors(page):
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def test_links_and_images_exist(page):
    text = CODE_BLOCK.sub("", page.read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img[^>]* src="([^"]+)"', text)
    broken = []
    for target in targets:
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert not broken


def test_named_files_exist(page):
    """Paths of programs, configs, tests and sources; ``my_…`` are files of the reader."""
    paths = re.findall(
        r"(?<![\w./-])(?:tools|configs|tests|csrc|ddgan)/[\w./-]*\w", page.read_text()
    )
    missing = {
        path
        for path in paths
        if not Path(path).name.startswith("my_") and not (ROOT / path).exists()
    }
    assert not missing


def test_named_python_objects_exist(page):
    missing = []
    for name in set(re.findall(r"(?<![\w./-])ddgan(?:\.[A-Za-z_]\w*)+", page.read_text())):
        parts = name.split(".")
        if (ROOT.joinpath(*parts[:-1]) / f"{parts[-1]}.py").exists():
            continue
        try:
            found = ddgan
            for i, part in enumerate(parts[1:], start=2):
                if not hasattr(found, part):
                    importlib.import_module(".".join(parts[:i]))
                found = getattr(found, part)
        except (AttributeError, ImportError):
            missing.append(name)
    assert not missing


def test_the_method_on_the_first_page_runs():
    code = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    names = {}
    exec(code, names)
    d_loss, g_loss = names["losses"](torch.randn(8, 2))
    d_loss.backward()
    assert all(p.grad is not None for p in names["discriminator"].parameters())
    g_loss.backward()
    assert all(p.grad is not None for p in names["generator"].parameters())


RINGS = (
    {"registry", "errors", "utils"},
    {"ops", "diffusion", "networks", "models"},
    {"data", "evaluation", "visualization", "engine", "editing", "export", "apis"},
    {"experiments", "demo"},
)


def imported_rooms(file):
    """The packages and modules directly below ``ddgan`` that a source imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("ddgan."))


def test_imports_point_down():
    """No room imports one of a higher ring (docs/architecture.md), and there are no cycles."""
    package = ROOT / "ddgan"
    imports = {}
    for file in package.rglob("*.py"):
        room = file.relative_to(package).parts[0].removesuffix(".py")
        imports.setdefault(room, set()).update(set(imported_rooms(file)) - {room, "__version__"})
    imports.pop("__init__")
    rank = {room: i for i, ring in enumerate(RINGS) for room in ring}
    assert imports.keys() <= rank.keys()
    upward = {(a, b) for a, rooms in imports.items() for b in rooms if rank[b] > rank[a]}
    assert not upward
    list(TopologicalSorter(imports).static_order())  # raises CycleError


def test_versions_agree():
    version = ddgan.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    newest = re.search(r"^## \[(\d[^\]]*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest[1] == version
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", newest[2])
    for page in PAGES:
        named = re.findall(r'ddgan["\']?(?:==|: | |-)["\']?v?(\d+\.\d+\.\d+)', page.read_text())
        assert set(named) <= {version}, page


def test_locked_versions_agree():
    """The locks, the extras of setup.py and the commit hooks name the same packages."""
    pins = {}
    for lock in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / lock).read_text()
        pins[lock] = dict(re.findall(r"^([\w.-]+)==([\w.+]+)(?: *;|$)", text, re.MULTILINE))
    runtime, dev = pins.values()
    assert runtime.keys() <= dev.keys()
    setup = (ROOT / "setup.py").read_text()
    required = set(
        re.findall(r'"([A-Za-z0-9-]+)(?:>=[\w.,<]+)?",', setup.split("extras_require")[1])
    )
    assert {name.lower() for name in required} <= dev.keys()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    local = [hook for repo in hooks["repos"] if repo["repo"] == "local" for hook in repo["hooks"]]
    assert local
    for hook in local:
        assert hook["additional_dependencies"] == [f"ruff=={dev['ruff']}"]


@pytest.mark.parametrize("path", YAML_FILES, ids=page_id)
def test_yaml_parses(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_workflow_runs_the_same_script():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["checks"]["steps"]
    assert "bash .ci/run" in [step.get("run") for step in steps]


def test_bug_reports_ask_for_what_is_needed():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug_report.yml").read_text())
    fields = {field["id"]: field for field in form["body"]}
    for name in ("config", "command", "environment"):
        assert fields[name]["validations"]["required"]
    assert "python -m ddgan.ops" in fields["environment"]["attributes"]["label"]
