# SPDX-License-Identifier: Apache-2.0
"""The pages of RPCs, metrics and annotations, from the protocol definitions and tables of `cri`."""

from collections.abc import Iterator
from typing import Any

from cri import policy, server
from cri.metrics import families
from cri.pb import nri_pb2, runtime_pb2
from cri.translate import extras, metrics, network
from stage1.rkt import annotations as of_rkt
from stage1.rkt import streams
from tests.reference import docstrings
from tests.reference.table import link, page, table


def _what(function: Any) -> str:
    """The description of an RPC by its function."""
    text = docstrings.first_sentence(function.__doc__)
    return link(text[:1].upper() + text[1:])


def _cri_rows(service: str) -> Iterator[tuple[str, ...]]:
    offered = server.functions(service)
    for method in runtime_pb2.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods:
        what = _what(offered[method.name]) if method.name in offered else "UNIMPLEMENTED"
        notes = [
            "streams" if method.server_streaming else "",
            "answered while pods are still adopted" if method.name in server.ALWAYS else "",
            "ends with its client" if method.name in server.DROPPED_WITH_CLIENT else "",
        ]
        yield f"`{method.name}`", what, ", ".join(filter(None, notes))


def _messages(request: str, response: str) -> str:
    """Which messages of the CRI an RPC of ours has."""
    return f"`{request}Request`, `{response}Response`"


def rpcs() -> str:
    """docs/reference/rpcs.md."""
    parts = ["What the daemon serves and calls. States, time limits and details: [dev/cri.md](../dev/cri.md)."]
    for service in ("runtime.v1.RuntimeService", "runtime.v1.ImageService"):
        parts += [f"## {service}", table(("RPC", "what it does", ""), _cri_rows(service))]
    functions = server.functions("clearpod.v1.Pods")
    ours = [(f"`{name}`", _what(function), _messages(*server.OURS[name])) for name, function in functions.items()]
    parts += ["## clearpod.v1.Pods", table(("RPC", "what it does", "messages"), ours)]
    for name, who in (("Runtime", "plugins call the daemon"), ("Plugin", "the daemon calls plugins")):
        methods = nri_pb2.DESCRIPTOR.services_by_name[name].methods
        rows_ = ((f"`{one.name}`", f"`{one.input_type.name}`", f"`{one.output_type.name}`") for one in methods)
        parts += [
            f"## NRI: {name}",
            f"Over ttRPC, {who}: [admin/nri.md](../admin/nri.md).",
            table(("RPC", "request", "answer"), rows_),
        ]
    return page("RPCs", *parts)


def _prometheus() -> str:
    """The metrics of the endpoint."""
    rows = [
        (f"`clearpod_{one.name}`", one.kind, one.help, ", ".join(f"`{label}`" for label in one.labels))
        for one in families.FAMILIES
    ]
    return table(("metric", "kind", "meaning", "labels"), rows)


def metric_page() -> str:
    """docs/reference/metrics.md."""
    kinds = {metrics.COUNTER: "counter", metrics.GAUGE: "gauge"}
    base = set(metrics.BASE)
    kind = {one.name: kinds[one.kind] for one in metrics.OF_CONTAINERS}
    rows = []
    for one in metrics.descriptors():
        labels = ", ".join(f"`{key}`" for key in one.label_keys if key not in base)
        rows.append((f"`{one.name}`", kind.get(one.name, "counter"), one.help, labels))
    intro = (
        f"What ListMetricDescriptors and ListPodSandboxMetrics give: {len(rows)}, for cAdvisor's. Each has labels "
        f"{', '.join(f'`{key}`' for key in metrics.BASE)}, and those of its row. Values are whole numbers."
    )
    return page(
        "Metrics",
        "## Of the node: the Prometheus endpoint",
        "What `GET /metrics` gives ([admin/monitoring.md](../admin/monitoring.md)), beside the daemon's `process_*`.",
        _prometheus(),
        "## Of containers: the CRI",
        intro,
        table(("metric", "kind", "meaning", "more labels"), rows),
    )


def annotations() -> str:
    """docs/reference/annotations.md."""
    meanings = docstrings.of_module(policy)
    named = {getattr(policy, name): text for name, text in meanings.items() if isinstance(getattr(policy, name), str)}
    allowed = policy.Policy().annotations
    ours = [(f"`{name}`", named[name], "yes" if name in allowed else "no") for name in policy.KNOWN]
    rates = docstrings.of_module(network)
    others = [(f"`{getattr(network, name)}`", rates[name]) for name in ("INGRESS", "EGRESS")]
    for module in (extras, of_rkt, streams):
        texts = docstrings.of_module(module)
        others += [
            (f"`{value}`", texts[name])
            for name, value in vars(module).items()
            if _is_annotation(value) and name in texts
        ]
    intro = "Annotations of pods that change what clearpod does. Others are kept and ignored."
    bounds = (
        "What a pod may ask for is bounded by `[policy]`: [admin/configuration.md](../admin/configuration.md#policy)."
    )
    return page(
        "Annotations",
        intro,
        "## Of clearpod",
        bounds,
        table(("annotation", "meaning", "allowed by default"), ours),
        "## Of others, and of rkt",
        table(("annotation", "meaning"), others),
    )


def _is_annotation(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("clearpod.io/", "coreos.com/"))
