"""The README's example runs as it stands."""

import pathlib

import pytest
from binary import Server

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"


def test_the_example_of_the_readme_emits_and_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    code = README.read_text().split("```python\n")[1].split("```")[0]
    with Server() as server:
        exec(code.replace("http://127.0.0.1:8080", server.target), {})
    assert len(set(capsys.readouterr().out.split())) == 1000
