"""Holds the schema of the settings against files: what the program takes it takes, what is wrong it refuses.

    python3 .ci/schema.py SCHEMA FILE…

Settings that are commented out in a file (`#key = value`) count, so that the example file is checked with all of them.
"""

import json
import pathlib
import re
import sys
import tomllib

import jsonschema

WRONG = [
    {"listen": {"grcp": "127.0.0.1:8080"}},
    {"listen": {"reflection": "maybe"}},
    {"delivery": {"threads": 0}},
    {"delivery": {"threads": 257}},
    {"delivery": {"enabled": "yes"}},
    {"limits": {"payload": "1KB"}},
    {"limits": {"payload": (16 << 20) + 1}},
    {"limits": {"call_timeout": 30}},
    {"log": {"format": "xml"}},
    {"egress": {"ports": [0]}},
    {"plans": {"Large Ones": {}}},
    {"traces": {"service_name": ""}},
]


def main():
    schema = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for name in sys.argv[2:]:
        text = pathlib.Path(name).read_text(encoding="utf-8")
        settings = tomllib.loads(re.sub(r"(?m)^#(?=[a-z_]+ = )", "", text))
        problems = [f"{name}: {'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(settings)]
        if problems:
            sys.exit("\n".join(problems))
        print(f"{name}: valid by the schema")
    missed = [settings for settings in WRONG if validator.is_valid(settings)]
    if missed:
        sys.exit(f"the schema takes what is wrong: {missed}")
    print(f"{len(WRONG)} mistakes: all found")


if __name__ == "__main__":
    main()
