"""Generators of clients: how each is called, and how what it makes is checked and run.

A folder for each language has the programs that take a task through its life. The clients are generated from the
contract alone, into folders that nobody keeps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from support.paths import CONTRACT
from support.programs import missing, node_modules

HERE = Path(__file__).parent
COMMANDS = Path(sys.executable).parent
COMMAND_SECONDS = 120

Command = Sequence[object]


def run(*command: object, cwd: Path, **variables: str) -> str:
    """Runs a command, which must succeed, and gives what it says."""
    path = f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "PYTHONPATH": "", "PYTHONWARNINGS": "error", "NO_COLOR": "1", "CONTRACT": str(CONTRACT)}
    completed = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | own | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout
    return completed.stdout


def need(program: str, debian: str) -> None:
    """Skips the test without the program; in CI, fails it."""
    if shutil.which(program) is None:
        missing(f"{program} is needed for this client: apt-get install {debian}")


TYPESCRIPT: dict[str, Command] = {
    "hey-api": ["openapi-ts", "--file", "openapi-ts.config.mjs"],
    "kubb": ["kubb", "generate", "--config", "kubb.config.mjs"],
    "openapi-typescript-codegen": [
        "openapi", "--input", CONTRACT, "--output", "generated/openapi-typescript-codegen",
    ],
    "orval": ["orval", "--config", "orval.config.mjs"],
    "swagger-typescript-api": [
        "swagger-typescript-api", "generate", "--path", CONTRACT, "--output", "generated/swagger-typescript-api",
        "--name", "api.ts",
    ],
    "typed-openapi": ["typed-openapi", CONTRACT, "--output", "generated/typed-openapi/client.ts"],
}  # fmt: skip
"""Generators from npm. Each has an adapter of its name in typescript/adapters."""

OPENAPI_GENERATOR_TYPESCRIPT = {
    "openapi-generator-fetch": "typescript-fetch",
    "openapi-generator-axios": "typescript-axios",
}


@dataclass(frozen=True)
class Target:
    """A language of openapi-generator: its options, and what checks and runs the client in its folder."""

    generator: str
    options: dict[str, str]
    prepare: Callable[[Path], Command]
    """Compiles or checks the client in this folder, and gives the command that takes a task through its life."""
    programs: dict[str, str] = field(default_factory=dict)
    """What it needs, with Debian's packages."""


def openapi_generator_jar() -> Path:
    spec = find_spec("openapi_generator_cli")
    if spec is None or spec.origin is None:
        missing("openapi-generator-cli is needed for this client: the group `clients` has it")
    return Path(spec.origin).with_name("openapi-generator.jar")


def openapi_generator(generator: str, output: Path, **options: str) -> None:
    """Generates a client into `output`, without its tests and documents."""
    need("java", "default-jdk-headless")
    properties = ",".join(f"{name}={value}" for name, value in options.items())
    run(
        "java", "-jar", openapi_generator_jar(), "generate", "--input-spec", CONTRACT, "--generator-name", generator,
        "--output", output, "--global-property", "apiTests=false,modelTests=false,apiDocs=false,modelDocs=false",
        *(["--additional-properties", properties] if properties else []),
        cwd=HERE,
    )  # fmt: skip


def java(folder: Path) -> Command:
    # The generator's own jar has the libraries that the client needs.
    jar = openapi_generator_jar()
    sources = [*folder.glob("src/main/**/*.java"), *(HERE / "java").glob("**/*.java")]
    run(
        "javac",
        "-Xlint:all,-processing,-deprecation",
        "-Werror",
        "-cp",
        jar,
        "-d",
        folder / "classes",
        *sources,
        cwd=folder,
    )
    return ["java", "-cp", f"{folder / 'classes'}{os.pathsep}{jar}", "Life"]


def go(folder: Path) -> Command:
    workspace = folder.with_name("go-workspace")
    shutil.copytree(folder, workspace / "src" / "taskpact")
    shutil.copytree(HERE / "go", workspace / "src" / "life")
    variables = {"GO111MODULE": "off", "GOPATH": str(workspace), "GOFLAGS": ""}
    run("go", "vet", "taskpact", "life", cwd=workspace, **variables)
    run("go", "build", "-o", workspace / "life", "life", cwd=workspace, **variables)
    return [workspace / "life"]


def ruby(folder: Path) -> Command:
    for source in folder.glob("lib/**/*.rb"):
        run("ruby", "-c", source, cwd=folder)
    return ["ruby", "-I", folder / "lib", HERE / "ruby" / "life.rb"]


def php(folder: Path) -> Command:
    shutil.copy(HERE / "php" / "life.php", folder)
    for source in [*folder.glob("lib/**/*.php"), folder / "life.php"]:
        run("php", "--syntax-check", source, cwd=folder)
    return ["php", folder / "life.php"]


def python(folder: Path) -> Command:
    shutil.copy(HERE / "python" / "generator_life.py", folder)
    run(sys.executable, "-m", "mypy", "--cache-dir", folder / ".cache", "generator_life.py", cwd=folder)
    return [sys.executable, folder / "generator_life.py"]


TARGETS = {
    "java": Target(
        "java",
        # What can send null needs a library that is on Maven Central alone.
        {"library": "native", "openApiNullable": "false", "hideGenerationTimestamp": "true"},
        java,
        {"javac": "default-jdk-headless"},
    ),
    "go": Target(
        "go",
        # By default, it refuses answers with members that it does not know.
        {"packageName": "taskpact", "withGoMod": "false", "disallowAdditionalPropertiesIfNotPresent": "false"},
        go,
        {"go": "golang-go"},
    ),
    "ruby": Target("ruby", {"gemName": "taskpact"}, ruby, {"ruby": "ruby ruby-typhoeus"}),
    "php": Target(
        "php", {"invokerPackage": "Taskpact"}, php, {"php": "php-cli php-curl php-mbstring php-guzzlehttp-guzzle"}
    ),
    "python": Target("python", {"packageName": "taskpact_client"}, python),
}


def make_openapi_generator_client(name: str, folder: Path) -> Command:
    """Generates and checks the client of a target, and gives the command for its life."""
    target = TARGETS[name]
    for program, debian in target.programs.items():
        need(program, debian)
    output = folder / name
    openapi_generator(target.generator, output, **target.options)
    return target.prepare(output)


def make_models(folder: Path) -> Command:
    """The same for the models of datamodel-code-generator."""
    run(
        COMMANDS / "datamodel-codegen", "--input", CONTRACT, "--input-file-type", "openapi", "--output", "models.py",
        "--output-model-type", "pydantic_v2.BaseModel", "--use-annotated", "--disable-timestamp",
        "--formatters", "builtin",
        cwd=folder,
    )  # fmt: skip
    shutil.copy(HERE / "python" / "datamodel_life.py", folder)
    run(sys.executable, "-m", "mypy", "--strict", "--cache-dir", folder / ".cache", "datamodel_life.py", cwd=folder)
    return [sys.executable, folder / "datamodel_life.py"]


def make_typescript_clients(folder: Path) -> Path:
    """Generates all clients of TypeScript, checks them together, and bundles each with its adapter into `bundles`."""
    own = HERE / "typescript"
    modules = node_modules(own)
    (folder / "node_modules").symlink_to(modules)
    (folder / "package.json").write_text('{"type": "module"}')
    for path in [own / "lifetime.ts", *own.glob("*.config.mjs"), *own.glob("adapters/*.ts")]:
        shutil.copy(path, folder)
    shutil.copy(own / "tsconfig.adapters.json", folder / "tsconfig.json")
    (folder / "generated" / "typed-openapi").mkdir(parents=True)
    for command, *arguments in TYPESCRIPT.values():
        run(modules / ".bin" / str(command), *arguments, cwd=folder)
    for name, generator in OPENAPI_GENERATOR_TYPESCRIPT.items():
        openapi_generator(generator, folder / "generated" / name)
    run(modules / ".bin" / "tsc", cwd=folder)
    adapters = [path.name for path in own.glob("adapters/*.ts")]
    options = [
        "--bundle",
        "--packages=external",
        "--platform=node",
        "--format=esm",
        "--outdir=bundles",
        "--log-level=warning",
    ]
    run(modules / ".bin" / "esbuild", *adapters, *options, cwd=folder)
    return folder / "bundles"


CLIENTS: dict[str, Callable[[Path], Command]] = {
    **{f"openapi-generator-{name}": partial(make_openapi_generator_client, name) for name in TARGETS},
    "datamodel-code-generator": make_models,
}
"""Everything but TypeScript."""
