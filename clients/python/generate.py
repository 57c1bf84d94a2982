"""Generates messages, stubs and their types from proto/ into src/signalpost/v1.

Needs `grpcio-tools` and `mypy-protobuf`. Run by the build of the package and by `clients/generate`.
"""

import pathlib
import subprocess
import sys
import sysconfig

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE / "proto"
TARGET = HERE / "src"
# Types of messages and of stubs.
PLUGINS = ["mypy", "mypy_grpc"]


def generate() -> None:
    """Writes the generated code anew."""
    folder = TARGET / "signalpost" / "v1"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*_pb2*"):
        old.unlink()
    (folder / "__init__.py").write_text('"""The API as generated from proto/signalpost/v1."""\n')
    files = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.glob("signalpost/v1/*.proto"))
    outputs = [f"--{kind}_out={TARGET}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{TARGET}" for kind in PLUGINS]
    # Those of the environment that runs this, whether or not it is on the path.
    scripts = pathlib.Path(sysconfig.get_path("scripts"))
    plugins = [f"--plugin=protoc-gen-{kind}={scripts / f'protoc-gen-{kind}'}" for kind in PLUGINS]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCE}"]
    subprocess.run([*protoc, *plugins, *outputs, *files], check=True)


if __name__ == "__main__":
    generate()
