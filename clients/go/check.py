"""Checks the Go recipe without Go: buf runs it with stand-ins for both plugins, which say what they were asked.

The stand-ins read the request that real plugins would get, so a mistake in the recipe (a misspelt option, a file left
out, a package without a Go import path) shows here. `.ci/checks/clients` runs the real plugins, too.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

from google.protobuf.compiler import plugin_pb2

HERE = pathlib.Path(__file__).resolve().parent
PLUGINS = ["protoc-gen-go", "protoc-gen-go-grpc"]


def stand_in() -> None:
    """Answers a file that tells the parameter and, for each file, its Go package."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    wanted = set(request.file_to_generate)
    told = [f"{one.name} {one.options.go_package}" for one in request.proto_file if one.name in wanted]
    answer = plugin_pb2.CodeGeneratorResponse()
    answer.supported_features = answer.FEATURE_PROTO3_OPTIONAL
    answer.file.add(name=os.path.basename(sys.argv[1]), content="\n".join([request.parameter, *told]))
    sys.stdout.buffer.write(answer.SerializeToString())


def check() -> None:
    """Runs the recipe and compares."""
    with tempfile.TemporaryDirectory() as folder:
        tools, output = pathlib.Path(folder, "bin"), pathlib.Path(folder, "gen")
        tools.mkdir()
        for plugin in PLUGINS:
            script = tools / plugin
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "{plugin}"\n')
            script.chmod(0o755)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        subprocess.run([HERE.parent / "generate", "--go", output], check=True, env={**os.environ, "PATH": path})
        files = sorted(path.name for path in (HERE.parents[1] / "proto/signalpost/v1").glob("*.proto"))
        package = "example.com/yourmodule/gen/signalpost/v1;signalpostv1"
        expected = ["paths=source_relative", *(f"signalpost/v1/{name} {package}" for name in files)]
        for plugin in PLUGINS:
            told = (output / plugin).read_text().split("\n")
            assert [told[0], *sorted(told[1:])] == expected, f"{plugin} was asked {told}, expected {expected}"
    print(f"the recipe asks {' and '.join(PLUGINS)} for {len(files)} files")


if len(sys.argv) > 1:
    stand_in()
else:
    check()
