"""Writes what the component `monitoring` has of ops/monitoring: the alert rules as a PrometheusRule, the dashboard as
the file of a ConfigMap. Kustomize reads no file outside of its folder, so these are copies.

    python3 k8s/monitoring.py           writes them
    python3 k8s/monitoring.py --check   ends with 1 if they are not what it would write
"""

import pathlib
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "ops" / "monitoring"
TARGET = ROOT / "k8s" / "components" / "monitoring"


def prometheus_rule():
    rules = yaml.safe_load((SOURCE / "signalpost.rules.yml").read_text())
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "signalpost"},
        "spec": rules,
    }
    note = "# Written by k8s/monitoring.py from ops/monitoring/signalpost.rules.yml, which has the comments.\n"
    return note + yaml.safe_dump(resource, sort_keys=False, width=110)


FILES = {
    "prometheus-rule.yaml": prometheus_rule,
    "signalpost.dashboard.json": lambda: (SOURCE / "signalpost.dashboard.json").read_text(),
}


def main():
    stale = []
    for name, write in FILES.items():
        path, text = TARGET / name, write()
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text)
    if "--check" in sys.argv and stale:
        sys.exit(f"{', '.join(stale)}: stale; run python3 k8s/monitoring.py")


if __name__ == "__main__":
    main()
