"""Holds rendered manifests against schemas: those of Kubernetes, and below those of the custom resources that it has none for.

    python3 k8s/schemas.py RENDERED.yaml VERSION…

Ends with 1 and a line for each document that some version refuses, or that nothing knows: another kind, or an apiVersion
that came later or is gone.
"""

import sys

import jsonschema
import yaml
from kubernetes_validate import utils as kubernetes

DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|[ywdhms]))+$"}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1}
TEXT = {"type": "string", "minLength": 1}


def fields(required, **optional):
    """An object that has all of the one, may have the other, and has nothing else."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": sorted(required),
        "additionalProperties": False,
    }


def several(item):
    return {"type": "array", "items": item, "minItems": 1}


POD_MONITOR = fields(
    {
        "selector": fields({"matchLabels": STRINGS}),
        "podMetricsEndpoints": several(fields({"port": TEXT}, path=TEXT, interval=DURATION)),
    },
    jobLabel=TEXT,
)
RULE = fields({"alert": TEXT, "expr": TEXT}, **{"for": DURATION, "labels": STRINGS, "annotations": STRINGS})
PROMETHEUS_RULE = fields({"groups": several(fields({"name": TEXT, "rules": several(RULE)}, interval=DURATION))})

# Of what the operator's resources may have, the part that is used here: a new key has to be looked up and added.
CUSTOM = {
    ("monitoring.coreos.com/v1", "PodMonitor"): POD_MONITOR,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PROMETHEUS_RULE,
}


def custom(spec):
    metadata = fields({"name": TEXT}, namespace=TEXT, labels=STRINGS)
    return fields({"apiVersion": TEXT, "kind": TEXT, "metadata": metadata, "spec": spec})


def problem_of(document, version):
    spec = CUSTOM.get((document["apiVersion"], document["kind"]))
    try:
        if spec:
            jsonschema.Draft202012Validator(custom(spec)).validate(document)
        else:
            kubernetes.validate(document, version, strict=True)
    except jsonschema.ValidationError as error:
        return f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"
    except kubernetes.SchemaNotFoundError:
        return f"nothing knows this kind as {document['apiVersion']}"
    return None


def problems(documents, versions):
    for version in versions:
        if version not in kubernetes.all_versions():
            yield f"there are no schemas of Kubernetes {version}"
            continue
        for document in documents:
            problem = problem_of(document, version)
            if problem:
                yield f"Kubernetes {version}: {document['kind']}/{document['metadata']['name']}: {problem}"


def main():
    path, *versions = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        documents = [document for document in yaml.safe_load_all(file) if document]
    found = list(problems(documents, versions))
    for problem in found:
        print(problem, file=sys.stderr)
    sys.exit(1 if found or not documents or not versions else 0)


if __name__ == "__main__":
    main()
