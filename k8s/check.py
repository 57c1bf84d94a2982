"""What no schema says: the promises that the manifests make for every installation.

    python3 k8s/check.py RENDERED.yaml

Reads what `kubectl kustomize` printed, and ends with 1 and a line for each promise that does not hold.
"""

import pathlib
import re
import sys

import yaml

PORTS = {"grpc": 8080, "health": 8081, "metrics": 9090}
PROBES = {
    "startupProbe": "signalpost.startup",
    "livenessProbe": "signalpost.liveness",
    "readinessProbe": "signalpost.readiness",
}
SPACE_FOR_EXIT_S = 20
README = pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8")


def pod_of(document):
    template = document.get("spec", {}).get("template")
    return template["spec"] if template else None


def problems_of_container(container, where):
    security = container.get("securityContext", {})
    expected = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for key, value in expected.items():
        if security.get(key) != value:
            yield f"{where}: securityContext.{key} is {security.get(key)!r}, not {value!r}"
    resources = container.get("resources", {})
    if "memory" not in resources.get("limits", {}):
        yield f"{where}: no limit of memory"
    if not {"cpu", "memory"} <= resources.get("requests", {}).keys():
        yield f"{where}: requests lack cpu or memory"
    if any("secretKeyRef" in str(variable) for variable in container.get("env", [])):
        yield f"{where}: a secret in the environment; mount it as a file"


def problems_of_server(container, pod, where):
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    if ports != PORTS:
        yield f"{where}: ports are {ports}, not {PORTS}"
    for probe, service in PROBES.items():
        asked = container.get(probe, {}).get("grpc", {})
        if asked != {"port": PORTS["health"], "service": service}:
            yield f"{where}: {probe} asks {asked}, not {service} on {PORTS['health']}"
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace = pod.get("terminationGracePeriodSeconds", 30)
    if before < 1 or grace < before + 25 + SPACE_FOR_EXIT_S:
        yield f"{where}: {grace} s of grace do not fit {before} s of preStop, 25 s of drain and the exit"


def problems_of_pod(pod, where):
    security = pod.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        yield f"{where}: may run as root"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield f"{where}: no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield f"{where}: mounts a token of the Kubernetes API"
    if pod.get("enableServiceLinks") is not False:
        yield f"{where}: gets variables of other Services"
    for container in pod.get("initContainers", []) + pod["containers"]:
        inside = f"{where}/{container['name']}"
        yield from problems_of_container(container, inside)
        if "serve" in container.get("args", []):
            yield from problems_of_server(container, pod, inside)


def problems_of_selection(documents):
    """A selector that matches no pod would make a policy, a budget or a Service do nothing, silently."""
    labels = [
        document["spec"]["template"]["metadata"].get("labels", {})
        for document in documents
        if pod_of(document)
    ]
    for document in documents:
        spec = document.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector"))
        if document["kind"] in ("StatefulSet", "Deployment", "Job") or not selector:
            continue
        wanted = selector.get("matchLabels", selector)
        if not any(wanted.items() <= found.items() for found in labels):
            yield f"{document['kind']}/{document['metadata']['name']}: selects no pod with {wanted}"


def serves(document):
    pod = pod_of(document)
    return bool(pod) and any("serve" in container.get("args", []) for container in pod["containers"])


def problems_of_workload(workload, documents, where):
    """What has to stand beside a workload that serves."""
    labels = workload["spec"]["template"]["metadata"].get("labels", {})

    def selects(document):
        spec = document.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector")) or {}
        return selector.get("matchLabels", selector).items() <= labels.items()

    for kind in ("PodDisruptionBudget", "NetworkPolicy", "PodMonitor", "Service"):
        if not any(document["kind"] == kind and selects(document) for document in documents):
            yield f"{where}: no {kind} selects its pods"
    if workload["kind"] != "Deployment":
        return
    if not pod_of(workload).get("topologySpreadConstraints"):
        yield f"{where}: replicas are not spread over zones and nodes"
    scaled = [
        document["spec"]["scaleTargetRef"]["name"]
        for document in documents
        if document["kind"] == "HorizontalPodAutoscaler"
    ]
    if workload["metadata"]["name"] not in scaled:
        yield f"{where}: no HorizontalPodAutoscaler names it"
    if "replicas" in workload["spec"]:
        yield f"{where}: replicas would undo what the autoscaler did, each time it is applied"
    jobs = [document for document in documents if document["kind"] == "Job"]
    if not any("migrate" in container.get("args", []) for job in jobs for container in pod_of(job)["containers"]):
        yield f"{where}: no Job migrates the schema"


def problems_of_secrets(pod, where):
    """Secrets are not in the manifests, so the README has to say how each is made."""
    for volume in pod.get("volumes", []):
        sources = [volume] + volume.get("projected", {}).get("sources", [])
        names = [source["secret"].get("secretName", source["secret"].get("name")) for source in sources if "secret" in source]
        for name in names:
            if not re.search(rf"create secret \w+ {name} ", README):
                yield f"{where}: k8s/README.md has no command that makes the Secret {name}"


def jobs_of(monitor, documents):
    """What Prometheus' operator makes the label `job` of the pods that a PodMonitor selects."""
    wanted = monitor["spec"]["selector"]["matchLabels"]
    metadata = monitor["metadata"]
    for document in documents:
        labels = document["spec"]["template"]["metadata"].get("labels", {}) if pod_of(document) else {}
        if wanted.items() <= labels.items():
            yield labels.get(monitor["spec"].get("jobLabel")) or f"{metadata.get('namespace')}/{metadata['name']}"


def problems_of_jobs(documents):
    """Rules that select another job than the pods have would fire for ever, or never."""
    found = {job for document in documents if document["kind"] == "PodMonitor" for job in jobs_of(document, documents)}
    for document in documents:
        if document["kind"] != "PrometheusRule":
            continue
        for rule in (rule for group in document["spec"]["groups"] for rule in group["rules"]):
            for job in sorted(set(re.findall(r'\bjob="([^"]*)"', rule["expr"]))):
                if found != {job}:
                    yield f"{rule['alert']}: selects the job {job}, but the pods' is {', '.join(sorted(found)) or 'none'}"


def problems(documents):
    for document in documents:
        where = f"{document['kind']}/{document['metadata']['name']}"
        pod = pod_of(document)
        if pod:
            yield from problems_of_pod(pod, where)
            yield from problems_of_secrets(pod, where)
        if serves(document):
            yield from problems_of_workload(document, documents, where)
        if document["kind"] == "Secret":
            yield f"{where}: secrets do not belong into manifests"
    yield from problems_of_selection(documents)
    yield from problems_of_jobs(documents)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        documents = [document for document in yaml.safe_load_all(file) if document]
    found = list(problems(documents))
    for problem in found:
        print(problem, file=sys.stderr)
    sys.exit(1 if found or not documents else 0)


if __name__ == "__main__":
    main()
